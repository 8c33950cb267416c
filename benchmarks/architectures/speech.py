"""Speech and sound."""

from __future__ import annotations

import math
from typing import List, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import Input, enliven, field, indices, numbers

architecture = field("speech")


class BatchRNN(nn.Module):
    """A recurrent layer over (T, N, H) whose two directions are added."""

    def __init__(self, i: int, hidden: int, norm: bool) -> None:
        super().__init__()
        self.hidden = hidden
        self.norm = norm
        self.batch_norm = nn.BatchNorm1d(i)
        self.rnn = nn.GRU(i, hidden, bidirectional=True, bias=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.norm:
            t, n = x.size(0), x.size(1)
            x = self.batch_norm(x.view(t * n, -1)).view(t, n, -1)
        x, _ = self.rnn(x)
        return x.view(x.size(0), x.size(1), 2, -1).sum(2).view(x.size(0), x.size(1), -1)


@architecture(
    "DeepSpeech2", 2016, "Deep Speech 2: End-to-End Speech Recognition", Input((1, 1, 40, 50))
)
class DeepSpeech2(nn.Module):
    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.conv = nn.Sequential(
            nn.Conv2d(1, 8, (11, 5), (2, 2), (5, 2)),
            nn.BatchNorm2d(8),
            nn.Hardtanh(0.0, 20.0, inplace=True),
            nn.Conv2d(8, 8, (11, 5), (2, 1), (5, 2)),
            nn.BatchNorm2d(8),
            nn.Hardtanh(0.0, 20.0, inplace=True),
        )
        self.rnns = nn.Sequential(BatchRNN(80, 16, False), BatchRNN(16, 16, True))
        self.lookahead = nn.Conv1d(16, 16, 4, groups=16, bias=False)
        self.norm = nn.BatchNorm1d(16)
        self.fc = nn.Linear(16, classes, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.conv(x)
        sizes = x.size()
        x = x.view(sizes[0], sizes[1] * sizes[2], sizes[3])
        x = x.transpose(1, 2).transpose(0, 1).contiguous()
        x = self.rnns(x)
        x = x.transpose(0, 1).transpose(1, 2)
        x = F.pad(x, pad=(0, 3), value=0.0)
        x = F.hardtanh(self.lookahead(x), 0.0, 20.0)
        x = self.norm(x).transpose(1, 2).transpose(0, 1).contiguous()
        t, n = x.size(0), x.size(1)
        x = self.fc(x.view(t * n, -1)).view(t, n, -1)
        return F.softmax(x.transpose(0, 1), dim=-1)


class QuartzBlock(nn.Module):
    def __init__(self, i: int, o: int, k: int, repeat: int) -> None:
        super().__init__()
        layers: List[nn.Module] = []
        for r in range(repeat):
            layers.append(
                nn.Conv1d(
                    i if r == 0 else o,
                    i if r == 0 else o,
                    k,
                    padding=k // 2,
                    groups=i if r == 0 else o,
                    bias=False,
                )
            )
            layers.append(nn.Conv1d(i if r == 0 else o, o, 1, bias=False))
            layers.append(nn.BatchNorm1d(o))
            if r < repeat - 1:
                layers.append(nn.ReLU())
        self.mconv = nn.ModuleList(layers)
        self.res = nn.Sequential(nn.Conv1d(i, o, 1, bias=False), nn.BatchNorm1d(o))

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        out = x
        for layer in self.mconv:
            out = layer(out.masked_fill(mask.unsqueeze(1), 0.0))
        out = out + self.res(x.masked_fill(mask.unsqueeze(1), 0.0))
        return F.relu(out)


@architecture(
    "QuartzNet",
    2020,
    "QuartzNet: Deep ASR with 1D Time-Channel Separable Convolutions",
    numbers(1, 16, 48),
    indices(1, below=48),
)
class QuartzNet(nn.Module):
    """Frames behind each sample's length are masked in every layer."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(16, 16, 11, 2, 5, groups=16, bias=False),
            nn.Conv1d(16, 24, 1, bias=False),
            nn.BatchNorm1d(24),
            nn.ReLU(),
        )
        self.block1 = QuartzBlock(24, 24, 11, 3)
        self.block2 = QuartzBlock(24, 32, 13, 2)
        self.decoder = nn.Conv1d(32, classes, 1)

    def forward(self, x: torch.Tensor, lens: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        lens = (lens + 2 * 5 - 10 - 1) // 2 + 1
        x = self.stem(x)
        mask = torch.arange(x.size(2), device=x.device).expand(lens.size(0), x.size(2))
        mask = mask >= lens.unsqueeze(1)
        x = self.block2(self.block1(x, mask), mask)
        return F.log_softmax(self.decoder(x).transpose(1, 2), dim=-1), lens


class GlobalLayerNorm(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.rand(1, size, 1) + 0.5)
        self.beta = nn.Parameter(torch.randn(1, size, 1) * 0.1)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        mean = y.mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        var = torch.pow(y - mean, 2).mean(dim=1, keepdim=True).mean(dim=2, keepdim=True)
        return self.gamma * (y - mean) / torch.pow(var + 1e-8, 0.5) + self.beta


class TemporalBlock(nn.Module):
    def __init__(self, b: int, h: int, dilation: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(b, h, 1, bias=False),
            nn.PReLU(),
            GlobalLayerNorm(h),
            nn.Conv1d(h, h, 3, padding=dilation, dilation=dilation, groups=h, bias=False),
            nn.PReLU(),
            GlobalLayerNorm(h),
            nn.Conv1d(h, b, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.net(x) + x


def overlap_and_add(signal: torch.Tensor, step: int) -> torch.Tensor:
    """Add frames (..., frames, length) where they overlap, by pieces of a common length."""
    frames, length = signal.size(-2), signal.size(-1)
    outer = signal.size(0) * signal.size(1)
    sub = math.gcd(length, step)
    sub_step = step // sub
    per_frame = length // sub
    out_length = step * (frames - 1) + length
    out_pieces = out_length // sub
    pieces = signal.view(outer, frames * per_frame, sub)
    starts = torch.arange(frames).unsqueeze(1) * sub_step
    places = (starts + torch.arange(per_frame).unsqueeze(0)).view(-1)
    result = torch.zeros([outer, out_pieces, sub], device=signal.device)
    result.index_add_(1, places, pieces)
    return result.view(signal.size(0), signal.size(1), -1)


@architecture(
    "Conv-TasNet", 2019, "Conv-TasNet: Surpassing Ideal Time-Frequency Masking", numbers(1, 400)
)
class ConvTasNet(nn.Module):
    def __init__(self, speakers: int = 2) -> None:
        super().__init__()
        self.speakers = speakers
        self.encoder = nn.Conv1d(1, 16, 16, stride=8, bias=False)
        self.norm = GlobalLayerNorm(16)
        self.bottleneck = nn.Conv1d(16, 12, 1, bias=False)
        self.blocks = nn.Sequential(*[TemporalBlock(12, 16, 2**i) for i in range(4)])
        self.mask = nn.Conv1d(12, 16 * speakers, 1, bias=False)
        self.basis = nn.Linear(16, 16, bias=False)

    def forward(self, mixture: torch.Tensor) -> torch.Tensor:
        length = mixture.size(-1)
        w = F.relu(self.encoder(mixture.unsqueeze(1)))
        M, N, K = w.size()
        score = self.mask(self.blocks(self.bottleneck(self.norm(w))))
        est_mask = F.relu(score.view(M, self.speakers, N, K))
        source = torch.unsqueeze(w, 1) * est_mask
        source = self.basis(torch.transpose(source, 2, 3))
        est = overlap_and_add(source, 8)
        return F.pad(est, [0, length - est.size(-1)])


class RelPositionAttention(nn.Module):
    """Attention with relative positions, shifted into place by a pad and a view."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.h = heads
        self.d_k = dim // heads
        self.linear_q = nn.Linear(dim, dim)
        self.linear_k = nn.Linear(dim, dim)
        self.linear_v = nn.Linear(dim, dim)
        self.linear_pos = nn.Linear(dim, dim, bias=False)
        self.linear_out = nn.Linear(dim, dim)
        self.pos_bias_u = nn.Parameter(torch.randn(heads, dim // heads) * 0.1)
        self.pos_bias_v = nn.Parameter(torch.randn(heads, dim // heads) * 0.1)

    def rel_shift(self, x: torch.Tensor) -> torch.Tensor:
        zero_pad = torch.zeros([x.size(0), x.size(1), x.size(2), 1], device=x.device, dtype=x.dtype)
        padded = torch.cat([zero_pad, x], dim=-1)
        padded = padded.view(x.size(0), x.size(1), x.size(3) + 1, x.size(2))
        x = padded[:, :, 1:].view_as(x)
        return x[:, :, :, : x.size(-1) // 2 + 1]

    def forward(self, x: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
        n_batch = x.size(0)
        q = self.linear_q(x).view(n_batch, -1, self.h, self.d_k)
        k = self.linear_k(x).view(n_batch, -1, self.h, self.d_k).transpose(1, 2)
        v = self.linear_v(x).view(n_batch, -1, self.h, self.d_k).transpose(1, 2)
        p = self.linear_pos(pos).view(1, -1, self.h, self.d_k).transpose(1, 2)
        q_u = (q + self.pos_bias_u).transpose(1, 2)
        q_v = (q + self.pos_bias_v).transpose(1, 2)
        ac = torch.matmul(q_u, k.transpose(-2, -1))
        bd = self.rel_shift(torch.matmul(q_v, p.transpose(-2, -1)))
        attn = torch.softmax((ac + bd) / math.sqrt(self.d_k), dim=-1)
        y = torch.matmul(attn, v).transpose(1, 2).contiguous().view(n_batch, -1, self.h * self.d_k)
        return self.linear_out(y)


class ConvolutionModule(nn.Module):
    def __init__(self, dim: int, k: int = 7) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.pointwise1 = nn.Conv1d(dim, 2 * dim, 1)
        self.depthwise = nn.Conv1d(dim, dim, k, padding=(k - 1) // 2, groups=dim)
        self.bn = nn.BatchNorm1d(dim)
        self.pointwise2 = nn.Conv1d(dim, dim, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.norm(x).transpose(1, 2)
        x = F.glu(self.pointwise1(x), dim=1)
        x = self.bn(self.depthwise(x))
        x = x * torch.sigmoid(x)
        return self.pointwise2(x).transpose(1, 2)


class FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(dim)
        self.w_1 = nn.Linear(dim, 2 * dim)
        self.w_2 = nn.Linear(2 * dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.w_1(self.norm(x))
        return self.w_2(y * torch.sigmoid(y))


class ConformerBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.ff1 = FeedForward(dim)
        self.norm = nn.LayerNorm(dim)
        self.attn = RelPositionAttention(dim, 4)
        self.conv = ConvolutionModule(dim)
        self.ff2 = FeedForward(dim)
        self.final = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor, pos: torch.Tensor) -> torch.Tensor:
        x = x + 0.5 * self.ff1(x)
        x = x + self.attn(self.norm(x), pos)
        x = x + self.conv(x)
        x = x + 0.5 * self.ff2(x)
        return self.final(x)


@architecture("Conformer", 2020, "Conformer: Convolution-augmented Transformer", numbers(1, 40, 16))
class Conformer(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.dim = dim
        self.subsample = nn.Sequential(
            nn.Conv2d(1, 8, 3, 2), nn.ReLU(), nn.Conv2d(8, 8, 3, 2), nn.ReLU()
        )
        self.out = nn.Linear(8 * 3, dim)
        self.blocks = nn.ModuleList([ConformerBlock(dim) for _ in range(2)])
        self.ctc = nn.Linear(dim, 10)

    def positions(self, length: int) -> torch.Tensor:
        position = torch.arange(length - 1, -length, -1, dtype=torch.float32).unsqueeze(1)
        div = torch.exp(
            torch.arange(0, self.dim, 2, dtype=torch.float32) * -(math.log(10000.0) / self.dim)
        )
        pe = torch.zeros([2 * length - 1, self.dim])
        pe[:, 0::2] = torch.sin(position * div)
        pe[:, 1::2] = torch.cos(position * div)
        return pe.unsqueeze(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.subsample(x.unsqueeze(1))
        b, c, t, f = x.size()
        x = self.out(x.transpose(1, 2).contiguous().view(b, t, c * f))
        x = x * math.sqrt(self.dim)
        pos = self.positions(t)
        for block in self.blocks:
            x = block(x, pos)
        return F.log_softmax(self.ctc(x), dim=-1)


class WaveLayer(nn.Module):
    def __init__(self, channels: int, mel: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, 3, padding=1, groups=channels)
        self.pointwise = nn.Conv1d(channels, 2 * channels, 1)
        self.cond = nn.Conv1d(mel, 2 * channels, 1)
        self.res_skip = nn.Conv1d(channels, channels, 1)

    def forward(self, x: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        y = self.pointwise(self.depthwise(x))
        cond = F.interpolate(self.cond(mel), size=y.size(2), mode="nearest")
        y = y + cond
        c = y.size(1) // 2
        acts = torch.tanh(y[:, :c]) * torch.sigmoid(y[:, c:])
        return x + self.res_skip(acts)


class AffineCoupling(nn.Module):
    def __init__(self, half: int, mel: int) -> None:
        super().__init__()
        self.start = nn.Conv1d(half, 12, 1)
        self.layers = nn.ModuleList([WaveLayer(12, mel) for _ in range(2)])
        self.end = nn.Conv1d(12, 2 * half, 1)
        self.half = half

    def forward(self, x: torch.Tensor, mel: torch.Tensor) -> torch.Tensor:
        y = self.start(x)
        for layer in self.layers:
            y = layer(y, mel)
        return self.end(y)


@architecture(
    "SqueezeWave",
    2020,
    "SqueezeWave: Extremely Lightweight Vocoders",
    numbers(1, 8, 6),
    numbers(1, 16, 24),
)
class SqueezeWave(nn.Module):
    """A vocoder as an inverse flow: noise to audio, under a spectrogram."""

    def __init__(self, channels: int = 16, mel: int = 8, flows: int = 3) -> None:
        super().__init__()
        self.couplings = nn.ModuleList([AffineCoupling(channels // 2, mel) for _ in range(flows)])
        self.convs = nn.ModuleList(
            [nn.Conv1d(channels, channels, 1, bias=False) for _ in range(flows)]
        )
        for conv in self.convs:
            q = torch.qr(torch.randn(channels, channels))[0]
            conv.weight.data = q.unsqueeze(2).contiguous()

    def forward(self, mel: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        audio = z * 0.6
        for coupling, conv in zip(self.couplings, self.convs):
            half = audio.size(1) // 2
            audio_0 = audio[:, :half, :]
            audio_1 = audio[:, half:, :]
            output = coupling(audio_0, mel)
            s = output[:, half:, :]
            b = output[:, :half, :]
            audio_1 = (audio_1 - b) / torch.exp(s)
            audio = torch.cat([audio_0, audio_1], 1)
            inverse = conv.weight.squeeze(2).float().inverse().unsqueeze(2)
            audio = F.conv1d(audio, inverse, stride=1, padding=0)
        return audio.permute(0, 2, 1).contiguous().view(audio.size(0), -1)


class WaveNetBlock(nn.Module):
    def __init__(self, channels: int, skip: int, dilation: int) -> None:
        super().__init__()
        self.dilation = dilation
        self.filter = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.gate = nn.Conv1d(channels, channels, 2, dilation=dilation)
        self.residual = nn.Conv1d(channels, channels, 1)
        self.skip = nn.Conv1d(channels, skip, 1)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        padded = F.pad(x, (self.dilation, 0))
        y = torch.tanh(self.filter(padded)) * torch.sigmoid(self.gate(padded))
        return self.residual(y) + x, self.skip(y)


@architecture(
    "WaveNet", 2016, "WaveNet: A Generative Model for Raw Audio", indices(1, 64, below=32)
)
class WaveNet(nn.Module):
    def __init__(self, levels: int = 32) -> None:
        super().__init__()
        self.levels = levels
        self.causal = nn.Conv1d(levels, 12, 1)
        self.blocks = nn.ModuleList([WaveNetBlock(12, 16, 2**i) for i in range(5)])
        self.end1 = nn.Conv1d(16, 16, 1)
        self.end2 = nn.Conv1d(16, levels, 1)
        enliven(self)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.one_hot(x, self.levels).float().transpose(1, 2)
        y = self.causal(y)
        skips = torch.zeros([y.size(0), 16, y.size(2)])
        for block in self.blocks:
            y, skip = block(y)
            skips = skips[:, :, -skip.size(2) :] + skip
        y = F.relu(self.end1(F.relu(skips)))
        return F.softmax(self.end2(y), dim=1)


class LocationAttention(nn.Module):
    def __init__(self, query: int, memory: int, dim: int) -> None:
        super().__init__()
        self.query_layer = nn.Linear(query, dim, bias=False)
        self.memory_layer = nn.Linear(memory, dim, bias=False)
        self.v = nn.Linear(dim, 1, bias=False)
        self.location_conv = nn.Conv1d(2, 4, 5, padding=2, bias=False)
        self.location_dense = nn.Linear(4, dim, bias=False)

    def forward(
        self, query: torch.Tensor, memory: torch.Tensor, weights: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        location = self.location_dense(self.location_conv(weights).transpose(1, 2))
        energies = self.v(
            torch.tanh(self.query_layer(query.unsqueeze(1)) + location + self.memory_layer(memory))
        ).squeeze(-1)
        attention = F.softmax(energies, dim=1)
        context = torch.bmm(attention.unsqueeze(1), memory).squeeze(1)
        return context, attention


@architecture(
    "Tacotron 2", 2018, "Natural TTS Synthesis by Conditioning WaveNet", indices(1, 14, below=30)
)
class Tacotron2(nn.Module):
    """The encoder, and a few steps of the decoder, each fed with the frame before."""

    def __init__(self, frames: int = 4, mels: int = 8) -> None:
        super().__init__()
        self.frames = frames
        self.mels = mels
        self.embedding = nn.Embedding(30, 16)
        self.convolutions = nn.ModuleList(
            [nn.Sequential(nn.Conv1d(16, 16, 5, padding=2), nn.BatchNorm1d(16)) for _ in range(3)]
        )
        self.lstm = nn.LSTM(16, 8, 1, batch_first=True, bidirectional=True)
        self.prenet = nn.Sequential(nn.Linear(mels, 8, bias=False), nn.ReLU())
        self.attention_rnn = nn.LSTMCell(8 + 16, 12)
        self.attention = LocationAttention(12, 16, 8)
        self.decoder_rnn = nn.LSTMCell(12 + 16, 12)
        self.projection = nn.Linear(12 + 16, mels)
        self.gate = nn.Linear(12 + 16, 1)
        enliven(self)

    def forward(self, ids: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        x = self.embedding(ids).transpose(1, 2)
        for conv in self.convolutions:
            x = F.dropout(F.relu(conv(x)), 0.5, self.training)
        memory = self.lstm(x.transpose(1, 2))[0]
        B, T = memory.size(0), memory.size(1)
        frame = memory.new_zeros([B, self.mels])
        ah, ac = memory.new_zeros([B, 12]), memory.new_zeros([B, 12])
        dh, dc = memory.new_zeros([B, 12]), memory.new_zeros([B, 12])
        context = memory.new_zeros([B, 16])
        weights = memory.new_zeros([B, T])
        weights_cum = memory.new_zeros([B, T])
        mels: List[torch.Tensor] = []
        gates: List[torch.Tensor] = []
        for _ in range(self.frames):
            cell_input = torch.cat((self.prenet(frame), context), -1)
            ah, ac = self.attention_rnn(cell_input, (ah, ac))
            both = torch.cat((weights.unsqueeze(1), weights_cum.unsqueeze(1)), dim=1)
            context, weights = self.attention(ah, memory, both)
            weights_cum = weights_cum + weights
            dh, dc = self.decoder_rnn(torch.cat((ah, context), -1), (dh, dc))
            out = torch.cat((dh, context), dim=1)
            frame = self.projection(out)
            mels.append(frame)
            gates.append(self.gate(out).squeeze(1))
        return torch.stack(mels, 2), torch.sigmoid(torch.stack(gates, 1))


class W2VLayer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_proj = nn.Linear(dim, dim)
        self.k_proj = nn.Linear(dim, dim)
        self.v_proj = nn.Linear(dim, dim)
        self.out_proj = nn.Linear(dim, dim)
        self.fc1 = nn.Linear(dim, 2 * dim)
        self.fc2 = nn.Linear(2 * dim, dim)
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        bsz, tgt_len, dim = x.size()
        head = dim // self.heads
        q = self.q_proj(x) * head**-0.5
        q = q.view(bsz, tgt_len, self.heads, head).transpose(1, 2).contiguous()
        k = self.k_proj(x).view(bsz, tgt_len, self.heads, head).transpose(1, 2).contiguous()
        v = self.v_proj(x).view(bsz, tgt_len, self.heads, head).transpose(1, 2).contiguous()
        q = q.view(bsz * self.heads, -1, head)
        k = k.view(bsz * self.heads, -1, head)
        v = v.view(bsz * self.heads, -1, head)
        weights = F.softmax(torch.bmm(q, k.transpose(1, 2)), dim=-1)
        y = torch.bmm(weights, v).view(bsz, self.heads, tgt_len, head)
        y = self.out_proj(y.transpose(1, 2).reshape(bsz, tgt_len, dim))
        x = self.norm1(x + y)
        return self.norm2(x + self.fc2(F.gelu(self.fc1(x))))


@architecture(
    "wav2vec 2.0", 2020, "wav2vec 2.0: Self-Supervised Learning of Speech", numbers(1, 800)
)
class Wav2Vec2(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.conv0 = nn.Conv1d(1, 12, 10, 5, bias=False)
        self.group_norm = nn.GroupNorm(12, 12)
        self.convs = nn.ModuleList([nn.Conv1d(12, 12, 3, 2, bias=False) for _ in range(3)])
        self.layer_norm = nn.LayerNorm(12)
        self.projection = nn.Linear(12, dim)
        self.pos_conv = nn.utils.weight_norm(nn.Conv1d(dim, dim, 8, padding=4, groups=4), dim=2)
        self.layers = nn.ModuleList([W2VLayer(dim, 4) for _ in range(2)])
        self.head = nn.Linear(dim, 10)

    def forward(self, wave: torch.Tensor) -> torch.Tensor:
        mean = wave.mean(dim=-1, keepdim=True)
        wave = (wave - mean) / torch.sqrt(wave.var(dim=-1, keepdim=True) + 1e-7)
        x = F.gelu(self.group_norm(self.conv0(wave[:, None])))
        for conv in self.convs:
            x = F.gelu(conv(x))
        x = self.projection(self.layer_norm(x.transpose(1, 2)))
        pos = self.pos_conv(x.transpose(1, 2))
        pos = F.gelu(pos[:, :, :-1])
        x = x + pos.transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return self.head(x)


class TCBlock(nn.Module):
    def __init__(self, i: int, o: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(i, o, (9, 1), (2, 1), (4, 0), bias=False)
        self.bn1 = nn.BatchNorm2d(o)
        self.conv2 = nn.Conv2d(o, o, (9, 1), 1, (4, 0), bias=False)
        self.bn2 = nn.BatchNorm2d(o)
        self.shortcut = nn.Conv2d(i, o, 1, (2, 1), bias=False)
        self.bn3 = nn.BatchNorm2d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + F.relu(self.bn3(self.shortcut(x))))


@architecture(
    "TC-ResNet", 2019, "Temporal Convolution for Real-time Keyword Spotting", numbers(1, 20, 50)
)
class TCResNet(nn.Module):
    """The frequencies of a spectrogram are channels, and time is all that is convolved."""

    def __init__(self, classes: int = 8) -> None:
        super().__init__()
        self.conv = nn.Conv2d(20, 16, (3, 1), padding=(1, 0), bias=False)
        self.blocks = nn.Sequential(TCBlock(16, 24), TCBlock(24, 24))
        self.fc = nn.Conv2d(24, classes, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.unsqueeze(3)
        x = self.blocks(self.conv(x))
        x = F.avg_pool2d(x, (x.size(2), 1))
        return self.fc(F.dropout(x, 0.5, self.training)).squeeze(3).squeeze(2)


class TDNN(nn.Module):
    """Frames in a context, taken by unfold, under one linear layer."""

    def __init__(self, i: int, o: int, context: int, dilation: int) -> None:
        super().__init__()
        self.context = context
        self.dilation = dilation
        self.input_dim = i
        self.kernel = nn.Linear(i * context, o)
        self.bn = nn.BatchNorm1d(o)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        _, _, d = x.shape
        assert d == self.input_dim
        x = x.unsqueeze(1)
        x = F.unfold(
            x,
            (self.context, self.input_dim),
            stride=(1, self.input_dim),
            dilation=(self.dilation, 1),
        )
        x = F.relu(self.kernel(x.transpose(1, 2)))
        return self.bn(x.transpose(1, 2)).transpose(1, 2)


@architecture(
    "x-vector", 2018, "X-Vectors: Robust DNN Embeddings for Speaker Recognition", numbers(1, 40, 12)
)
class XVector(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.frames = nn.Sequential(
            TDNN(12, 16, 5, 1), TDNN(16, 16, 3, 2), TDNN(16, 16, 3, 3), TDNN(16, 24, 1, 1)
        )
        self.segment = nn.Linear(48, 16)
        self.bn = nn.BatchNorm1d(16)
        self.out = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        x = self.frames(x)
        mean = torch.mean(x, 1)
        std = torch.std(x, 1)
        stat = torch.cat((mean, std), 1)
        vector = self.segment(stat)
        return F.normalize(vector, p=2.0, dim=1), self.out(self.bn(F.relu(vector)))


@architecture(
    "RNN-T",
    2013,
    "Sequence Transduction with Recurrent Neural Networks",
    numbers(1, 12, 10),
    indices(1, 5, below=14),
)
class RNNT(nn.Module):
    """The joint network over every pair of a frame and a label."""

    def __init__(self, vocabulary: int = 14) -> None:
        super().__init__()
        self.transcription = nn.LSTM(10, 12, 2, batch_first=True)
        self.embedding = nn.Embedding(vocabulary, 8, padding_idx=0)
        self.prediction = nn.LSTM(8, 12, batch_first=True)
        self.joint = nn.Linear(24, 16)
        self.out = nn.Linear(16, vocabulary)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        zero = torch.zeros([y.size(0), 1], dtype=y.dtype, device=y.device)
        y = torch.cat((zero, y), dim=1)
        f, _ = self.transcription(x)
        g, _ = self.prediction(self.embedding(y))
        f = f.unsqueeze(dim=2)
        g = g.unsqueeze(dim=1)
        T, U = f.size(1), g.size(2)
        f = f.expand(-1, -1, U, -1)
        g = g.expand(-1, T, -1, -1)
        joint = torch.tanh(self.joint(torch.cat((f, g), dim=-1)))
        return F.log_softmax(self.out(joint), dim=-1)

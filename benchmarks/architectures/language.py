"""Language."""

from __future__ import annotations

import math
from typing import List, Optional, Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import field, indices, numbers

architecture = field("language")


class BertSelfAttention(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.num_attention_heads = heads
        self.attention_head_size = dim // heads
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def transpose_for_scores(self, x: torch.Tensor) -> torch.Tensor:
        x = x.view(x.size(0), x.size(1), self.num_attention_heads, self.attention_head_size)
        return x.permute(0, 2, 1, 3)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q = self.transpose_for_scores(self.query(x))
        k = self.transpose_for_scores(self.key(x))
        v = self.transpose_for_scores(self.value(x))
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(self.attention_head_size)
        probs = F.softmax(scores + mask, dim=-1)
        context = torch.matmul(probs, v).permute(0, 2, 1, 3).contiguous()
        context = context.view(context.size(0), context.size(1), -1)
        return self.norm(self.dense(context) + x)


class BertLayer(nn.Module):
    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attention = BertSelfAttention(dim, heads)
        self.intermediate = nn.Linear(dim, dim * 2)
        self.output = nn.Linear(dim * 2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        x = self.attention(x, mask)
        y = self.intermediate(x)
        y = y * 0.5 * (1.0 + torch.erf(y / math.sqrt(2.0)))
        return self.norm(self.output(y) + x)


class BertEmbeddings(nn.Module):
    def __init__(self, vocabulary: int, positions: int, dim: int) -> None:
        super().__init__()
        self.word = nn.Embedding(vocabulary, dim, padding_idx=0)
        self.position = nn.Embedding(positions, dim)
        self.token_type = nn.Embedding(2, dim)
        self.norm = nn.LayerNorm(dim, eps=1e-12)

    def forward(self, ids: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
        length = ids.size(1)
        position_ids = torch.arange(length, dtype=torch.long, device=ids.device)
        position_ids = position_ids.unsqueeze(0).expand_as(ids)
        return self.norm(self.word(ids) + self.position(position_ids) + self.token_type(types))


@architecture(
    "BERT",
    2019,
    "BERT: Pre-training of Deep Bidirectional Transformers",
    indices(1, 12, below=40),
    indices(1, 12, below=2),
    indices(1, 12, below=2),
)
class BERT(nn.Module):
    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.embeddings = BertEmbeddings(40, 16, dim)
        self.layers = nn.ModuleList([BertLayer(dim, 4) for _ in range(3)])
        self.pooler = nn.Linear(dim, dim)
        self.transform = nn.Linear(dim, dim)
        self.bias = nn.Parameter(torch.randn(40) * 0.1)

    def forward(
        self, ids: torch.Tensor, attention_mask: torch.Tensor, types: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        mask = attention_mask.unsqueeze(1).unsqueeze(2)
        mask = mask.to(dtype=torch.float32)
        mask = (1.0 - mask) * -10000.0
        x = self.embeddings(ids, types)
        for layer in self.layers:
            x = layer(x, mask)
        pooled = torch.tanh(self.pooler(x[:, 0]))
        logits = F.linear(F.gelu(self.transform(x)), self.embeddings.word.weight) + self.bias
        return logits, pooled


def gelu_new(x: torch.Tensor) -> torch.Tensor:
    return 0.5 * x * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))


class Conv1D(nn.Module):
    """A linear layer with its weight transposed."""

    def __init__(self, nf: int, nx: int) -> None:
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf) * 0.2)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        size_out = list(x.size())[:-1] + [self.nf]
        x = torch.addmm(self.bias, x.view(-1, x.size(-1)), self.weight)
        return x.view(size_out)


class GPTBlock(nn.Module):
    def __init__(self, dim: int, heads: int, context: int) -> None:
        super().__init__()
        self.heads = heads
        self.ln_1 = nn.LayerNorm(dim)
        self.c_attn = Conv1D(3 * dim, dim)
        self.c_proj = Conv1D(dim, dim)
        self.ln_2 = nn.LayerNorm(dim)
        self.c_fc = Conv1D(2 * dim, dim)
        self.c_proj2 = Conv1D(dim, 2 * dim)
        bias = torch.tril(torch.ones(context, context)).view(1, 1, context, context)
        self.register_buffer("bias", bias)

    def split_heads(self, x: torch.Tensor, k: bool) -> torch.Tensor:
        x = x.view(x.size(0), x.size(1), self.heads, x.size(-1) // self.heads)
        if k:
            return x.permute(0, 2, 3, 1)
        return x.permute(0, 2, 1, 3)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        x = self.c_attn(x)
        dim = x.size(2) // 3
        parts = x.split(dim, dim=2)
        query, key, value = parts[0], parts[1], parts[2]
        w = torch.matmul(self.split_heads(query, False), self.split_heads(key, True))
        w = w / (float(dim // self.heads) ** 0.5)
        nd, ns = w.size(-2), w.size(-1)
        b = self.bias[:, :, ns - nd : ns, :ns]
        w = w * b - 1e4 * (1 - b)
        w = F.softmax(w, dim=-1)
        a = torch.matmul(w, self.split_heads(value, False)).permute(0, 2, 1, 3).contiguous()
        return self.c_proj(a.view(a.size(0), a.size(1), a.size(2) * a.size(3)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.ln_1(x))
        return x + self.c_proj2(gelu_new(self.c_fc(self.ln_2(x))))


@architecture(
    "GPT-2", 2019, "Language Models are Unsupervised Multitask Learners", indices(1, 10, below=40)
)
class GPT2(nn.Module):
    def __init__(self, dim: int = 24) -> None:
        super().__init__()
        self.wte = nn.Embedding(40, dim)
        self.wpe = nn.Embedding(16, dim)
        self.h = nn.ModuleList([GPTBlock(dim, 4, 16) for _ in range(3)])
        self.ln_f = nn.LayerNorm(dim)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        ids = ids.view(-1, ids.size(-1))
        position = torch.arange(0, ids.size(-1), dtype=torch.long, device=ids.device)
        position = position.unsqueeze(0).view(-1, ids.size(-1))
        x = self.wte(ids) + self.wpe(position)
        for block in self.h:
            x = block(x)
        x = self.ln_f(x)
        return torch.matmul(x, self.wte.weight.t())


@architecture(
    "ALBERT", 2020, "ALBERT: A Lite BERT", indices(1, 12, below=40), indices(1, 12, below=2)
)
class ALBERT(nn.Module):
    """One layer used again and again, behind a factorised embedding; attention by einsum."""

    def __init__(self, dim: int = 24, embedding: int = 8, heads: int = 4) -> None:
        super().__init__()
        self.heads = heads
        self.word = nn.Embedding(40, embedding)
        self.position = nn.Embedding(16, embedding)
        self.mapping = nn.Linear(embedding, dim)
        self.query = nn.Linear(dim, dim)
        self.key = nn.Linear(dim, dim)
        self.value = nn.Linear(dim, dim)
        self.dense = nn.Linear(dim, dim)
        self.norm = nn.LayerNorm(dim)
        self.ffn = nn.Linear(dim, dim * 2)
        self.ffn_output = nn.Linear(dim * 2, dim)
        self.full_norm = nn.LayerNorm(dim)

    def layer(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        b, n, dim = x.size()
        head = dim // self.heads
        q = self.query(x).view(b, n, self.heads, head).permute(0, 2, 1, 3)
        k = self.key(x).view(b, n, self.heads, head).permute(0, 2, 1, 3)
        v = self.value(x).view(b, n, self.heads, head).permute(0, 2, 1, 3)
        scores = torch.matmul(q, k.transpose(-1, -2)) / math.sqrt(head) + mask
        context = torch.matmul(torch.softmax(scores, dim=-1), v).permute(0, 2, 1, 3).contiguous()
        w = self.dense.weight.t().view(self.heads, head, dim)
        projected = torch.einsum("bfnd,ndh->bfh", [context, w]) + self.dense.bias
        y = self.norm(x + projected)
        return self.full_norm(self.ffn_output(gelu_new(self.ffn(y))) + y)

    def forward(self, ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        mask = (attention_mask[:, None, None, :] == 0).float() * -10000.0
        positions = torch.arange(ids.shape[1]).unsqueeze(0)
        x = self.mapping(self.word(ids) + self.position(positions))
        for _ in range(4):
            x = self.layer(x, mask)
        return x


class T5Attention(nn.Module):
    def __init__(self, dim: int, heads: int, buckets: int, bidirectional: bool) -> None:
        super().__init__()
        self.heads = heads
        self.buckets = buckets
        self.bidirectional = bidirectional
        self.q = nn.Linear(dim, dim, bias=False)
        self.k = nn.Linear(dim, dim, bias=False)
        self.v = nn.Linear(dim, dim, bias=False)
        self.o = nn.Linear(dim, dim, bias=False)
        self.relative_attention_bias = nn.Embedding(buckets, heads)

    def bucket(self, relative: torch.Tensor) -> torch.Tensor:
        ret = torch.zeros_like(relative)
        n = -relative
        num_buckets = self.buckets
        if self.bidirectional:
            num_buckets = num_buckets // 2
            ret += (n < 0).to(torch.long) * num_buckets
            n = torch.abs(n)
        else:
            n = torch.max(n, torch.zeros_like(n))
        max_exact = num_buckets // 2
        is_small = n < max_exact
        large = max_exact + (
            torch.log(n.float() / max_exact) / math.log(32 / max_exact) * (num_buckets - max_exact)
        ).to(torch.long)
        large = torch.min(large, torch.full_like(large, num_buckets - 1))
        ret += torch.where(is_small, n, large)
        return ret

    def forward(self, x: torch.Tensor, memory: torch.Tensor, relative: bool) -> torch.Tensor:
        b, n = x.size(0), x.size(1)
        m = memory.size(1)
        d = x.size(2) // self.heads
        q = self.q(x).view(b, n, self.heads, d).transpose(1, 2)
        k = self.k(memory).view(b, m, self.heads, d).transpose(1, 2)
        v = self.v(memory).view(b, m, self.heads, d).transpose(1, 2)
        scores = torch.einsum("bnqd,bnkd->bnqk", [q, k])
        if relative:
            context_position = torch.arange(n, dtype=torch.long)[:, None]
            memory_position = torch.arange(m, dtype=torch.long)[None, :]
            places = self.bucket(memory_position - context_position)
            bias = self.relative_attention_bias(places).permute([2, 0, 1]).unsqueeze(0)
            if not self.bidirectional:
                causal = memory_position <= context_position
                bias = bias + (1.0 - causal.float()) * -1e9
            scores = scores + bias
        weights = F.softmax(scores.float(), dim=-1).type_as(scores)
        y = torch.matmul(weights, v).transpose(1, 2).contiguous().view(b, -1, self.heads * d)
        return self.o(y)


class T5Norm(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.rand(dim) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        variance = x.to(torch.float32).pow(2).mean(-1, keepdim=True)
        x = x * torch.rsqrt(variance + 1e-6)
        return self.weight * x


class T5FeedForward(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.wi = nn.Linear(dim, dim * 2, bias=False)
        self.wo = nn.Linear(dim * 2, dim, bias=False)
        self.norm = T5Norm(dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.wo(F.relu(self.wi(self.norm(x))))


@architecture(
    "T5",
    2020,
    "Exploring the Limits of Transfer Learning",
    indices(1, 9, below=40),
    indices(1, 6, below=40),
)
class T5(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.dim = dim
        self.shared = nn.Embedding(40, dim)
        self.enc_attn = T5Attention(dim, 4, 8, True)
        self.enc_norm = T5Norm(dim)
        self.enc_ff = T5FeedForward(dim)
        self.dec_attn = T5Attention(dim, 4, 8, False)
        self.dec_norm = T5Norm(dim)
        self.cross = T5Attention(dim, 4, 8, False)
        self.cross_norm = T5Norm(dim)
        self.dec_ff = T5FeedForward(dim)
        self.final = T5Norm(dim)

    def forward(self, ids: torch.Tensor, decoder_ids: torch.Tensor) -> torch.Tensor:
        x = self.shared(ids)
        y = self.enc_norm(x)
        x = self.enc_ff(x + self.enc_attn(y, y, True))
        start = torch.zeros_like(decoder_ids)
        start[..., 1:] = decoder_ids[..., :-1].clone()
        start[..., 0] = 0
        d = self.shared(start)
        y = self.dec_norm(d)
        d = d + self.dec_attn(y, y, True)
        d = d + self.cross(self.cross_norm(d), x, False)
        d = self.final(self.dec_ff(d)) * (self.dim**-0.5)
        return F.linear(d, self.shared.weight)


@architecture(
    "TextCNN",
    2014,
    "Convolutional Neural Networks for Sentence Classification",
    indices(1, 16, below=50),
)
class TextCNN(nn.Module):
    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, 12)
        self.convs = nn.ModuleList([nn.Conv2d(1, 8, (k, 12)) for k in (3, 4, 5)])
        self.fc = nn.Linear(24, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.embed(x).unsqueeze(1)
        pooled: List[torch.Tensor] = []
        for conv in self.convs:
            y = F.relu(conv(x)).squeeze(3)
            pooled.append(F.max_pool1d(y, y.size(2)).squeeze(2))
        return self.fc(F.dropout(torch.cat(pooled, 1), 0.5, self.training))


@architecture(
    "BiLSTM attention",
    2016,
    "Attention-Based Bidirectional LSTM for Relation Classification",
    indices(1, 14, below=50),
)
class BiLSTMAttention(nn.Module):
    """Padding (index 0) is masked out of the attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(50, 12, padding_idx=0)
        self.lstm = nn.LSTM(12, 10, num_layers=2, bidirectional=True, batch_first=True)
        self.w = nn.Parameter(torch.randn(10))
        self.fc = nn.Linear(10, 5)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        mask = ids == 0
        out, _ = self.lstm(self.embedding(ids))
        h = out[:, :, :10] + out[:, :, 10:]
        score = torch.matmul(torch.tanh(h), self.w)
        score = score.masked_fill(mask, float("-inf"))
        alpha = F.softmax(score, dim=1).unsqueeze(-1)
        r = torch.sum(h * alpha, dim=1)
        return self.fc(torch.tanh(r))


@architecture(
    "fastText", 2017, "Bag of Tricks for Efficient Text Classification", indices(1, 20, below=60)
)
class FastText(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.EmbeddingBag(60, 12, mode="mean")
        self.fc = nn.Linear(12, 6)

    def forward(self, text: torch.Tensor) -> torch.Tensor:
        return F.log_softmax(self.fc(self.embedding(text)), dim=1)


class PositionalEncoding(nn.Module):
    def __init__(self, dim: int, most: int = 32) -> None:
        super().__init__()
        pe = torch.zeros(most, dim)
        position = torch.arange(0, most, dtype=torch.float).unsqueeze(1)
        div = torch.exp(torch.arange(0, dim, 2).float() * (-math.log(10000.0) / dim))
        pe[:, 0::2] = torch.sin(position * div)
        pe[:, 1::2] = torch.cos(position * div)
        self.register_buffer("pe", pe.unsqueeze(0).transpose(0, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.pe[: x.size(0), :]


@architecture(
    "Transformer",
    2017,
    "Attention Is All You Need",
    indices(9, 1, below=30),
    indices(6, 1, below=30),
)
class TransformerModel(nn.Module):
    """torch's own nn.Transformer, with a causal mask made in forward()."""

    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.dim = dim
        self.embedding = nn.Embedding(30, dim)
        self.position = PositionalEncoding(dim)
        self.transformer = nn.Transformer(dim, 4, 2, 2, 32, dropout=0.1)
        self.generator = nn.Linear(dim, 30)

    def causal_mask(self, size: int) -> torch.Tensor:
        mask = (torch.triu(torch.ones([size, size])) == 1).transpose(0, 1)
        mask = mask.float().masked_fill(mask == 0, float("-inf"))
        return mask.masked_fill(mask == 1, 0.0)

    def forward(self, src: torch.Tensor, tgt: torch.Tensor) -> torch.Tensor:
        mask = self.causal_mask(tgt.size(0))
        s = self.position(self.embedding(src) * math.sqrt(self.dim))
        t = self.position(self.embedding(tgt) * math.sqrt(self.dim))
        out = self.transformer(s, t, tgt_mask=mask)
        return F.log_softmax(self.generator(out), dim=-1)


class BahdanauAttention(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.attn = nn.Linear(dim * 2, dim)
        self.v = nn.Parameter(torch.rand(dim))

    def forward(self, hidden: torch.Tensor, encoded: torch.Tensor) -> torch.Tensor:
        timestep = encoded.size(0)
        h = hidden.repeat(timestep, 1, 1).transpose(0, 1)
        encoded = encoded.transpose(0, 1)
        energy = torch.tanh(self.attn(torch.cat([h, encoded], 2))).transpose(1, 2)
        v = self.v.repeat(encoded.size(0), 1).unsqueeze(1)
        return F.softmax(torch.bmm(v, energy).squeeze(1), dim=1).unsqueeze(1)


@architecture(
    "seq2seq attention",
    2015,
    "Neural Machine Translation by Jointly Learning to Align and Translate",
    indices(10, 1, below=30),
)
class Seq2Seq(nn.Module):
    """A greedy decoder: each word is the embedding of the likeliest before."""

    def __init__(self, dim: int = 12, vocabulary: int = 30) -> None:
        super().__init__()
        self.dim = dim
        self.vocabulary = vocabulary
        self.embed = nn.Embedding(vocabulary, dim)
        self.encoder = nn.GRU(dim, dim, 1, bidirectional=True)
        self.attention = BahdanauAttention(dim)
        self.decoder = nn.GRU(dim * 2, dim)
        self.out = nn.Linear(dim * 2, vocabulary)

    def forward(self, src: torch.Tensor) -> torch.Tensor:
        batch = src.size(1)
        outputs = torch.zeros([5, batch, self.vocabulary], device=src.device)
        encoded, hidden = self.encoder(self.embed(src))
        encoded = encoded[:, :, : self.dim] + encoded[:, :, self.dim :]
        hidden = hidden[:1]
        word = src[0, :]
        for t in range(5):
            embedded = self.embed(word).unsqueeze(0)
            weights = self.attention(hidden[-1], encoded)
            context = weights.bmm(encoded.transpose(0, 1)).transpose(0, 1)
            output, hidden = self.decoder(torch.cat([embedded, context], 2), hidden)
            output = self.out(torch.cat([output.squeeze(0), context.squeeze(0)], 1))
            outputs[t] = F.log_softmax(output, dim=1)
            word = output.max(1)[1]
        return outputs


class QRNNLayer(nn.Module):
    """A convolution over pairs of words, and gates that run over time without a matrix."""

    def __init__(self, i: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.linear = nn.Linear(2 * i, 3 * hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seq_len, batch, _ = x.size()
        shifted = torch.cat([torch.zeros_like(x[:1]), x[:-1]], 0)
        y = self.linear(torch.cat([x, shifted], 2))
        y = y.view(seq_len, batch, 3 * self.hidden)
        z, f, o = y.chunk(3, dim=2)
        z, f = torch.tanh(z), torch.sigmoid(f)
        result: List[torch.Tensor] = []
        c: Optional[torch.Tensor] = None
        for t in range(seq_len):
            step = f[t] * z[t]
            if c is not None:
                step = step + (1 - f[t]) * c
            c = step
            result.append(step)
        return torch.sigmoid(o) * torch.stack(result)


@architecture("QRNN", 2017, "Quasi-Recurrent Neural Networks", indices(12, 1, below=30))
class QRNN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Embedding(30, 10)
        self.layers = nn.ModuleList([QRNNLayer(10, 12), QRNNLayer(12, 12)])
        self.decoder = nn.Linear(12, 30)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.encoder(ids)
        for layer in self.layers:
            x = layer(x)
        decoded = self.decoder(x.view(x.size(0) * x.size(1), x.size(2)))
        return decoded.view(x.size(0), x.size(1), decoded.size(1))


class Highway(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.transform = nn.Linear(size, size)
        self.gate = nn.Linear(size, size)
        self.gate.bias.data.fill_(-2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        t = torch.sigmoid(self.gate(x))
        return torch.mul(F.relu(self.transform(x)), t) + torch.mul(x, 1 - t)


@architecture(
    "CharCNN", 2016, "Character-Aware Neural Language Models", indices(1, 6, 11, below=28)
)
class CharCNN(nn.Module):
    """Words by their letters: convolutions, highways, and a recurrent net over the words."""

    def __init__(self) -> None:
        super().__init__()
        self.char_embed = nn.Embedding(28, 8, padding_idx=0)
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(1, n, kernel_size=(k, 8)) for k, n in ((1, 4), (2, 6), (3, 8))]
        )
        self.batch_norm = nn.BatchNorm1d(18)
        self.highway1 = Highway(18)
        self.highway2 = Highway(18)
        self.lstm = nn.LSTM(18, 12, 2, batch_first=True)
        self.linear = nn.Linear(12, 20)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, words, letters = x.size()
        x = self.char_embed(x.contiguous().view(-1, letters))
        x = x.unsqueeze(1)
        chosen: List[torch.Tensor] = []
        for conv in self.convolutions:
            feature_map = torch.tanh(conv(x))
            chosen.append(torch.max(feature_map, 2)[0].squeeze(2))
        x = self.batch_norm(torch.cat(chosen, 1))
        x = self.highway2(self.highway1(x))
        x, _ = self.lstm(x.view(batch, words, -1))
        return self.linear(x.contiguous().view(batch * words, -1))


class WindowedAttention(nn.Module):
    """Each word attends to those in a window: chunks that overlap, and a band of them masked."""

    def __init__(self, dim: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.w = window
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def chunk(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.size()
        count = n // self.w
        padded = F.pad(x, (0, 0, self.w, self.w))
        parts = padded.view(b, count + 2, self.w, d)
        return torch.cat([parts[:, :-2], parts[:, 1:-1], parts[:, 2:]], dim=2)

    def forward(self, x: torch.Tensor, valid: torch.Tensor) -> torch.Tensor:
        b, n, dim = x.size()
        d = dim // self.heads
        qkv = self.qkv(x).view(b, n, 3, self.heads, d).permute(2, 0, 3, 1, 4)
        qkv = qkv.reshape(3, b * self.heads, n, d)
        q, k, v = qkv[0] / math.sqrt(d), self.chunk(qkv[1]), self.chunk(qkv[2])
        q = q.view(b * self.heads, n // self.w, self.w, d)
        scores = torch.matmul(q, k.transpose(-1, -2))
        places = torch.arange(3 * self.w)[None, :] - self.w - torch.arange(self.w)[:, None]
        outside = (places.abs() > self.w)[None, None]
        valid = self.chunk(valid.float().unsqueeze(2)).squeeze(-1).unsqueeze(2)
        valid = valid.repeat_interleave(self.heads, dim=0)
        scores = scores.masked_fill(outside | (valid == 0), -1e9)
        y = torch.matmul(F.softmax(scores, dim=-1), v)
        y = y.view(b, self.heads, n, d).transpose(1, 2).reshape(b, n, dim)
        return self.out(y)


@architecture(
    "Longformer",
    2020,
    "Longformer: The Long-Document Transformer",
    indices(1, 16, below=40),
    indices(1, 16, below=2),
)
class Longformer(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.embed = nn.Embedding(40, dim)
        self.attn = nn.ModuleList([WindowedAttention(dim, 2, 4) for _ in range(2)])
        self.norm1 = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2)])
        self.norm2 = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2)])
        self.ff = nn.ModuleList([nn.Linear(dim, dim) for _ in range(2)])
        self.global_key = nn.Linear(dim, dim)

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        valid = torch.cat([torch.ones_like(mask[:, :1]), mask[:, 1:]], 1)
        x = self.embed(ids)
        for attn, norm1, norm2, ff in zip(self.attn, self.norm1, self.norm2, self.ff):
            x = norm1(x + attn(x, valid))
            x = norm2(x + F.gelu(ff(x)))
        first = x[:, 0:1] @ self.global_key(x).transpose(1, 2)
        x[:, 0:1] = torch.softmax(first, -1) @ x
        return x


class FavorAttention(nn.Module):
    """Softmax attention by random features, so that keys and values are multiplied first."""

    def __init__(self, dim: int, heads: int, features: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_qkv = nn.Linear(dim, 3 * dim, bias=False)
        self.to_out = nn.Linear(dim, dim)
        self.register_buffer("projection", torch.randn(features, dim // heads))

    def kernel(self, data: torch.Tensor, is_query: bool) -> torch.Tensor:
        d = data.size(-1)
        normalizer = d**-0.25
        ratio = self.projection.size(0) ** -0.5
        dash = torch.einsum("bhid,jd->bhij", [normalizer * data, self.projection])
        diag = torch.sum(data**2, dim=-1) / 2.0 * (normalizer**2)
        diag = diag.unsqueeze(dim=-1)
        if is_query:
            most = torch.max(dash, dim=-1, keepdim=True)[0]
            return ratio * (torch.exp(dash - diag - most) + 1e-4)
        return ratio * (torch.exp(dash - diag - torch.max(dash)) + 1e-4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, dim = x.shape
        q, k, v = self.to_qkv(x).chunk(3, dim=-1)
        q = q.view(b, n, self.heads, -1).transpose(1, 2)
        k = k.view(b, n, self.heads, -1).transpose(1, 2)
        v = v.view(b, n, self.heads, -1).transpose(1, 2)
        q, k = self.kernel(q, True), self.kernel(k, False)
        d_inv = 1.0 / torch.einsum("bhnd,bhd->bhn", [q, k.sum(dim=-2)])
        context = torch.einsum("bhnd,bhne->bhde", [k, v])
        out = torch.einsum("bhde,bhnd,bhn->bhne", [context, q, d_inv])
        return self.to_out(out.transpose(1, 2).reshape(b, n, dim))


@architecture("Performer", 2021, "Rethinking Attention with Performers", numbers(1, 20, 16))
class Performer(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.attn = nn.ModuleList([FavorAttention(dim, 4, 12) for _ in range(2)])
        self.norm = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2)])
        self.ff = nn.ModuleList(
            [nn.Sequential(nn.Linear(dim, 32), nn.GELU(), nn.Linear(32, dim)) for _ in range(2)]
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for attn, norm, ff in zip(self.attn, self.norm, self.ff):
            x = x + attn(norm(x))
            x = x + ff(x)
        return x


class LinformerAttention(nn.Module):
    def __init__(self, dim: int, heads: int, length: int, k: int) -> None:
        super().__init__()
        self.heads = heads
        self.length = length
        self.to_q = nn.Linear(dim, dim, bias=False)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.to_v = nn.Linear(dim, dim, bias=False)
        self.proj_k = nn.Parameter(torch.randn(length, k) / math.sqrt(length))
        self.proj_v = nn.Parameter(torch.randn(length, k) / math.sqrt(length))
        self.to_out = nn.Linear(dim, dim)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, n, d = x.shape
        assert n == self.length, "the length of the sequence is fixed"
        head = d // self.heads
        keys = torch.einsum("bnd,nk->bkd", [self.to_k(x), self.proj_k])
        values = torch.einsum("bnd,nk->bkd", [self.to_v(x), self.proj_v])
        q = self.to_q(x).reshape(b, n, self.heads, head).transpose(1, 2)
        k = keys.reshape(b, -1, self.heads, head).transpose(1, 2)
        v = values.reshape(b, -1, self.heads, head).transpose(1, 2)
        attn = torch.einsum("bhnd,bhkd->bhnk", [q, k]) * (head**-0.5)
        out = torch.einsum("bhnk,bhkd->bhnd", [attn.softmax(dim=-1), v])
        return self.to_out(out.transpose(1, 2).reshape(b, n, d))


@architecture(
    "Linformer", 2020, "Linformer: Self-Attention with Linear Complexity", indices(1, 24, below=40)
)
class Linformer(nn.Module):
    def __init__(self, dim: int = 16) -> None:
        super().__init__()
        self.token_emb = nn.Embedding(40, dim)
        self.pos_emb = nn.Embedding(24, dim)
        self.attn = nn.ModuleList([LinformerAttention(dim, 4, 24, 6) for _ in range(2)])
        self.norm = nn.ModuleList([nn.LayerNorm(dim) for _ in range(2)])
        self.out = nn.Linear(dim, 40)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.token_emb(ids)
        x = self.pos_emb(torch.arange(ids.shape[1], device=ids.device)) + x
        for attn, norm in zip(self.attn, self.norm):
            x = x + attn(norm(x))
        return self.out(x)

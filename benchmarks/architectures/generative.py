"""Generative models, and super-resolution."""

from __future__ import annotations

import math
from typing import Tuple

import torch
import torch.nn as nn
import torch.nn.functional as F

from architectures.registry import enliven, field, image, indices, numbers

architecture = field("generative")


class EqualLinear(nn.Module):
    def __init__(self, i: int, o: int, bias_init: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(o, i))
        self.bias = nn.Parameter(torch.full((o,), bias_init))
        self.scale = 1 / math.sqrt(i)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.linear(x, self.weight * self.scale, bias=self.bias)


class Blur(nn.Module):
    """Insert zeros, and smooth by a fixed kernel: a nets' way to double a size."""

    def __init__(self) -> None:
        super().__init__()
        k = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = k[None, :] * k[:, None]
        self.register_buffer("kernel", kernel / kernel.sum() * 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        b, c, h, w = x.shape
        out = x.view(b * c, 1, h, 1, w, 1)
        out = F.pad(out, [0, 1, 0, 0, 0, 1])
        out = out.view(b * c, 1, h * 2, w * 2)
        out = F.pad(out, [2, 1, 2, 1])
        out = F.conv2d(out, torch.flip(self.kernel, [0, 1]).view(1, 1, 4, 4))
        return out.view(b, c, out.size(2), out.size(3))


class ModulatedConv(nn.Module):
    """A convolution whose weight each sample's style scales, as one of a group a sample."""

    def __init__(self, i: int, o: int, style: int, k: int = 3, demodulate: bool = True) -> None:
        super().__init__()
        self.i = i
        self.o = o
        self.k = k
        self.demodulate = demodulate
        self.scale = 1 / math.sqrt(i * k * k)
        self.weight = nn.Parameter(torch.randn(1, o, i, k, k))
        self.modulation = EqualLinear(style, i, 1.0)

    def forward(self, x: torch.Tensor, style: torch.Tensor) -> torch.Tensor:
        batch, in_channel, height, width = x.shape
        style = self.modulation(style).view(batch, 1, in_channel, 1, 1)
        weight = self.scale * self.weight * style
        if self.demodulate:
            demod = torch.rsqrt(weight.pow(2).sum([2, 3, 4]) + 1e-8)
            weight = weight * demod.view(batch, self.o, 1, 1, 1)
        weight = weight.view(batch * self.o, in_channel, self.k, self.k)
        x = x.view(1, batch * in_channel, height, width)
        out = F.conv2d(x, weight, padding=self.k // 2, groups=batch)
        _, _, height, width = out.shape
        return out.view(batch, self.o, height, width)


@architecture(
    "StyleGAN2", 2020, "Analyzing and Improving the Image Quality of StyleGAN", numbers(1, 16)
)
class StyleGAN2(nn.Module):
    def __init__(self, style: int = 16) -> None:
        super().__init__()
        self.mapping = nn.ModuleList([EqualLinear(style, style) for _ in range(3)])
        self.const = nn.Parameter(torch.randn(1, 12, 4, 4))
        self.conv1 = ModulatedConv(12, 12, style)
        self.to_rgb1 = ModulatedConv(12, 3, style, 1, False)
        self.up = Blur()
        self.conv2 = ModulatedConv(12, 8, style)
        self.to_rgb2 = ModulatedConv(8, 3, style, 1, False)
        self.register_buffer("noise", torch.randn(1, 1, 8, 8))
        self.noise_weight = nn.Parameter(torch.tensor([0.2]))

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        w = z * torch.rsqrt(torch.mean(z**2, dim=1, keepdim=True) + 1e-8)
        for layer in self.mapping:
            w = F.leaky_relu(layer(w), 0.2) * 2**0.5
        x = self.const.repeat(w.shape[0], 1, 1, 1)
        x = F.leaky_relu(self.conv1(x, w), 0.2) * 2**0.5
        rgb = self.to_rgb1(x, w)
        x = self.conv2(self.up(x), w) + self.noise_weight * self.noise
        x = F.leaky_relu(x, 0.2) * 2**0.5
        return self.up(rgb) + self.to_rgb2(x, w)


class ResnetBlock(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.conv_block = nn.Sequential(
            nn.ReflectionPad2d(1),
            nn.Conv2d(dim, dim, 3),
            nn.InstanceNorm2d(dim),
            nn.ReLU(True),
            nn.ReflectionPad2d(1),
            nn.Conv2d(dim, dim, 3),
            nn.InstanceNorm2d(dim),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.conv_block(x)


@architecture("CycleGAN", 2017, "Unpaired Image-to-Image Translation", image(32))
class CycleGAN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = nn.Sequential(
            nn.ReflectionPad2d(3),
            nn.Conv2d(3, 8, 7),
            nn.InstanceNorm2d(8),
            nn.ReLU(True),
            nn.Conv2d(8, 12, 3, 2, 1),
            nn.InstanceNorm2d(12),
            nn.ReLU(True),
            ResnetBlock(12),
            ResnetBlock(12),
            nn.ConvTranspose2d(12, 8, 3, 2, 1, output_padding=1),
            nn.InstanceNorm2d(8),
            nn.ReLU(True),
            nn.ReflectionPad2d(3),
            nn.Conv2d(8, 3, 7),
            nn.Tanh(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.model(x)


@architecture(
    "ESPCN", 2016, "Real-Time Super-Resolution by a Sub-Pixel Convolutional Network", image(16, 1)
)
class ESPCN(nn.Module):
    def __init__(self, upscale: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 5, padding=2)
        self.conv2 = nn.Conv2d(16, 12, 3, padding=1)
        self.conv3 = nn.Conv2d(12, upscale**2, 3, padding=1)
        self.pixel_shuffle = nn.PixelShuffle(upscale)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.tanh(self.conv1(x))
        x = torch.tanh(self.conv2(x))
        return torch.clamp(self.pixel_shuffle(self.conv3(x)), -1.0, 1.0)


@architecture("VAE", 2014, "Auto-Encoding Variational Bayes", image(16, 1), numbers(1, 6))
class VAE(nn.Module):
    """The noise is an input, so that outputs can be compared."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Conv2d(8, 12, 4, 2, 1), nn.ReLU()
        )
        self.fc1 = nn.Linear(12 * 16, 6)
        self.fc2 = nn.Linear(12 * 16, 6)
        self.fc3 = nn.Linear(6, 12 * 16)
        self.decoder = nn.Sequential(
            nn.ConvTranspose2d(12, 8, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(8, 1, 4, 2, 1)
        )

    def reparameterize(
        self, mu: torch.Tensor, logvar: torch.Tensor, eps: torch.Tensor
    ) -> torch.Tensor:
        std = torch.exp(0.5 * logvar)
        return eps.mul(std).add_(mu)

    def forward(
        self, x: torch.Tensor, eps: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        h = self.encoder(x)
        h = h.view(h.size(0), -1)
        mu, logvar = self.fc1(h), self.fc2(h)
        z = self.reparameterize(mu, logvar, eps)
        y = self.decoder(self.fc3(z).view(-1, 12, 4, 4))
        kld = -0.5 * torch.sum(1 + logvar - mu.pow(2) - logvar.exp(), dim=1)
        return torch.sigmoid(y), mu, kld


@architecture("VQ-VAE", 2017, "Neural Discrete Representation Learning", image(16))
class VQVAE(nn.Module):
    """Each place takes the nearest code, by a one-hot matrix; the loss is an output."""

    def __init__(self, codes: int = 12, dim: int = 8) -> None:
        super().__init__()
        self.codes = codes
        self.dim = dim
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 12, 4, 2, 1), nn.ReLU(), nn.Conv2d(12, dim, 3, padding=1)
        )
        self.codebook = nn.Embedding(codes, dim)
        self.codebook.weight.data.mul_(0.3)
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, 12, 3, padding=1), nn.ReLU(), nn.ConvTranspose2d(12, 3, 4, 2, 1)
        )

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        z = self.encoder(x).permute(0, 2, 3, 1).contiguous()
        input_shape = z.shape
        flat = z.view(-1, self.dim)
        w = self.codebook.weight
        distances = (
            torch.sum(flat**2, dim=1, keepdim=True)
            + torch.sum(w**2, dim=1)
            - 2 * torch.matmul(flat, w.t())
        )
        index = torch.argmin(distances, dim=1).unsqueeze(1)
        encodings = torch.zeros([index.shape[0], self.codes], device=x.device)
        encodings.scatter_(1, index, 1)
        quantized = torch.matmul(encodings, w).view(input_shape)
        loss = F.mse_loss(quantized.detach(), z) * 0.25 + F.mse_loss(quantized, z.detach())
        quantized = z + (quantized - z).detach()
        avg_probs = torch.mean(encodings, dim=0)
        perplexity = torch.exp(-torch.sum(avg_probs * torch.log(avg_probs + 1e-10)))
        y = self.decoder(quantized.permute(0, 3, 1, 2).contiguous())
        return y, loss, perplexity


@architecture("RealNVP", 2017, "Density Estimation using Real NVP", numbers(1, 6))
class RealNVP(nn.Module):
    def __init__(self, dim: int = 6, layers: int = 4) -> None:
        super().__init__()
        mask = (torch.arange(dim) % 2).float()
        self.register_buffer("masks", torch.stack([mask, 1 - mask] * (layers // 2)))
        self.t = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(dim, 12), nn.LeakyReLU(), nn.Linear(12, dim))
                for _ in range(layers)
            ]
        )
        self.s = nn.ModuleList(
            [
                nn.Sequential(nn.Linear(dim, 12), nn.LeakyReLU(), nn.Linear(12, dim), nn.Tanh())
                for _ in range(layers)
            ]
        )

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        log_det = x.new_zeros(x.shape[0])
        z = x
        for i, (s_net, t_net) in enumerate(zip(self.s, self.t)):
            mask = self.masks[i]
            z_ = mask * z
            s = s_net(z_) * (1 - mask)
            t = t_net(z_) * (1 - mask)
            z = (1 - mask) * (z - t) * torch.exp(-s) + z_
            log_det -= s.sum(dim=1)
        log_prob = -0.5 * (z**2).sum(1) - 0.5 * z.size(1) * math.log(2 * math.pi)
        return z, log_prob + log_det


class ActNorm(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.randn(1, channels, 1, 1) * 0.1)
        self.scale = nn.Parameter(torch.rand(1, channels, 1, 1) + 0.5)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        _, _, height, width = x.shape
        log_abs = torch.log(torch.abs(self.scale))
        logdet = height * width * torch.sum(log_abs)
        return self.scale * (x + self.loc), logdet


class InvConvLU(nn.Module):
    """A rotation of the channels, kept as its triangular factors."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        q = torch.qr(torch.randn(channels, channels))[0]
        p, lower, u = torch.lu_unpack(*torch.lu(q))
        s = torch.diagonal(u).clone()
        self.register_buffer("w_p", p)
        self.register_buffer("u_mask", torch.triu(torch.ones(channels, channels), 1))
        self.register_buffer("l_mask", self.u_mask.t())
        self.register_buffer("s_sign", torch.sign(s))
        self.register_buffer("l_eye", torch.eye(channels))
        self.w_l = nn.Parameter(lower)
        self.w_s = nn.Parameter(torch.log(torch.abs(s)))
        self.w_u = nn.Parameter(torch.triu(u, 1))

    def calc_weight(self) -> torch.Tensor:
        weight = (
            self.w_p
            @ (self.w_l * self.l_mask + self.l_eye)
            @ ((self.w_u * self.u_mask) + torch.diag(self.s_sign * torch.exp(self.w_s)))
        )
        return weight.unsqueeze(2).unsqueeze(3)

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        _, _, height, width = x.shape
        out = F.conv2d(x, self.calc_weight())
        return out, height * width * torch.sum(self.w_s)


class Flow(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.actnorm = ActNorm(channels)
        self.invconv = InvConvLU(channels)
        self.net = nn.Sequential(
            nn.Conv2d(channels // 2, 12, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, 12, 1),
            nn.ReLU(inplace=True),
            nn.Conv2d(12, channels, 3, padding=1),
        )

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        out, logdet = self.actnorm(x)
        out, det1 = self.invconv(out)
        in_a, in_b = out.chunk(2, 1)
        log_s, t = self.net(in_a).chunk(2, 1)
        s = torch.sigmoid(log_s + 2)
        out_b = (in_b + t) * s
        det2 = torch.sum(torch.log(s).view(x.shape[0], -1), 1)
        return torch.cat([in_a, out_b], 1), logdet + det1 + det2


@architecture("Glow", 2018, "Glow: Generative Flow with Invertible 1x1 Convolutions", image(8))
class Glow(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.flows = nn.ModuleList([Flow(12), Flow(12)])

    def forward(self, x: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        b, c, height, width = x.shape
        y = x.view(b, c, height // 2, 2, width // 2, 2)
        y = y.permute(0, 1, 3, 5, 2, 4).contiguous().view(b, c * 4, height // 2, width // 2)
        logdet = torch.zeros([b], device=x.device)
        for flow in self.flows:
            y, det = flow(y)
            logdet = logdet + det
        out, z = y.chunk(2, 1)
        return out, z, logdet


class TimeEmbedding(nn.Module):
    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.proj = nn.Sequential(nn.Linear(dim, dim * 2), nn.ReLU(), nn.Linear(dim * 2, dim * 2))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        half = self.dim // 2
        emb = math.log(10000) / (half - 1)
        freqs = torch.exp(torch.arange(half, dtype=torch.float32, device=t.device) * -emb)
        args = t.float()[:, None] * freqs[None, :]
        return self.proj(torch.cat((args.sin(), args.cos()), dim=-1))


class DiffusionBlock(nn.Module):
    def __init__(self, i: int, o: int, time: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(4, i)
        self.conv1 = nn.Conv2d(i, o, 3, padding=1)
        self.temb_proj = nn.Linear(time, o)
        self.norm2 = nn.GroupNorm(4, o)
        self.conv2 = nn.Conv2d(o, o, 3, padding=1)
        self.shortcut = nn.Conv2d(i, o, 1)

    def forward(self, x: torch.Tensor, temb: torch.Tensor) -> torch.Tensor:
        h = self.norm1(x)
        h = self.conv1(h * torch.sigmoid(h))
        h += self.temb_proj(temb * torch.sigmoid(temb))[:, :, None, None]
        h = self.norm2(h)
        h = self.conv2(h * torch.sigmoid(h))
        return h + self.shortcut(x)


class SpatialSelfAttention(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(4, c)
        self.q = nn.Conv2d(c, c, 1)
        self.k = nn.Conv2d(c, c, 1)
        self.v = nn.Conv2d(c, c, 1)
        self.proj = nn.Conv2d(c, c, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.norm(x)
        q, k, v = self.q(h), self.k(h), self.v(h)
        b, c, height, width = q.shape
        q = q.reshape(b, c, height * width).permute(0, 2, 1)
        k = k.reshape(b, c, height * width)
        w = F.softmax(torch.bmm(q, k) * (int(c) ** (-0.5)), dim=2)
        v = v.reshape(b, c, height * width)
        h = torch.bmm(v, w.permute(0, 2, 1)).reshape(b, c, height, width)
        return x + self.proj(h)


@architecture(
    "DDPM", 2020, "Denoising Diffusion Probabilistic Models", image(16), indices(1, below=1000)
)
class DDPM(nn.Module):
    """The U-Net, and one step of the sampler from it."""

    def __init__(self, ch: int = 8) -> None:
        super().__init__()
        self.time = TimeEmbedding(ch)
        self.conv_in = nn.Conv2d(3, ch, 3, padding=1)
        self.down1 = DiffusionBlock(ch, ch, ch * 2)
        self.downsample = nn.Conv2d(ch, ch, 3, stride=2)
        self.mid1 = DiffusionBlock(ch, ch * 2, ch * 2)
        self.attn = SpatialSelfAttention(ch * 2)
        self.mid2 = DiffusionBlock(ch * 2, ch, ch * 2)
        self.upsample = nn.Conv2d(ch, ch, 3, padding=1)
        self.up1 = DiffusionBlock(ch * 2, ch, ch * 2)
        self.norm_out = nn.GroupNorm(4, ch)
        self.conv_out = nn.Conv2d(ch, 3, 3, padding=1)
        betas = torch.linspace(1e-4, 0.02, 1000)
        self.register_buffer("alphas_cumprod", torch.cumprod(1 - betas, 0))

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> Tuple[torch.Tensor, torch.Tensor]:
        temb = self.time(t)
        h0 = self.down1(self.conv_in(x), temb)
        h = self.downsample(F.pad(h0, (0, 1, 0, 1), mode="constant", value=0.0))
        h = self.mid2(self.attn(self.mid1(h, temb)), temb)
        h = self.upsample(F.interpolate(h, scale_factor=2.0, mode="nearest"))
        h = self.norm_out(self.up1(torch.cat([h, h0], dim=1), temb))
        eps = self.conv_out(h * torch.sigmoid(h))
        a = self.alphas_cumprod.gather(0, t).reshape(-1, 1, 1, 1)
        x0 = (x - eps * (1.0 - a).sqrt()) / (a.sqrt() + 0.1)
        return eps, x0.clamp(-1.0, 1.0)


class NVAECell(nn.Module):
    def __init__(self, c: int) -> None:
        super().__init__()
        self.bn0 = nn.BatchNorm2d(c, eps=1e-5, momentum=0.05)
        self.conv1 = nn.Conv2d(c, c * 3, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(c * 3)
        self.conv2 = nn.Conv2d(c * 3, c * 3, 5, padding=2, groups=c * 3, bias=False)
        self.bn2 = nn.BatchNorm2d(c * 3)
        self.conv3 = nn.Conv2d(c * 3, c, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(c)
        self.fc1 = nn.Linear(c, 4)
        self.fc2 = nn.Linear(4, c)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.conv1(self.bn0(x))
        y = self.bn1(y)
        y = y * torch.sigmoid(y)
        y = self.bn2(self.conv2(y))
        y = y * torch.sigmoid(y)
        y = self.bn3(self.conv3(y))
        se = torch.mean(y, dim=[2, 3])
        se = torch.sigmoid(self.fc2(F.relu(self.fc1(se)))).view(y.size(0), -1, 1, 1)
        return x + 0.1 * (se * y)


def soft_clamp5(x: torch.Tensor) -> torch.Tensor:
    return x.div(5.0).tanh_().mul(5.0)


@architecture(
    "NVAE",
    2020,
    "NVAE: A Deep Hierarchical Variational Autoencoder",
    numbers(1, 8, 4, 4),
    numbers(1, 4, 8, 8),
)
class NVAE(nn.Module):
    """The decoder: two groups of latents, and the mean of a mixture of discretised logistics."""

    def __init__(self, c: int = 12, mixtures: int = 3) -> None:
        super().__init__()
        self.mixtures = mixtures
        self.h0 = nn.Parameter(torch.rand(c, 4, 4))
        self.combine0 = nn.Conv2d(c + 8, c, 1)
        self.cell0 = NVAECell(c)
        self.up = nn.Conv2d(c, c, 1)
        self.prior = nn.Sequential(nn.ELU(), nn.Conv2d(c, 8, 1))
        self.combine1 = nn.Conv2d(c + 4, c, 1)
        self.cell1 = NVAECell(c)
        self.image = nn.Conv2d(c, 10 * mixtures, 3, padding=1)

    def forward(self, z0: torch.Tensor, eps: torch.Tensor) -> torch.Tensor:
        s = self.h0.unsqueeze(0).expand(z0.size(0), -1, -1, -1)
        s = self.cell0(self.combine0(torch.cat([s, z0], dim=1)))
        s = self.up(F.interpolate(s, scale_factor=2.0, mode="bilinear", align_corners=True))
        mu, log_sig = torch.chunk(self.prior(s), 2, dim=1)
        sigma = torch.exp(soft_clamp5(log_sig)) + 1e-2
        z1 = eps * sigma + soft_clamp5(mu)
        s = self.cell1(self.combine1(torch.cat([s, z1], dim=1)))
        logits = self.image(F.elu(s))
        B, C, H, W = logits.size()
        nm = self.mixtures
        pi = torch.softmax(logits[:, :nm, :, :], dim=1)
        rest = logits[:, nm:, :, :].view(B, 3, 3 * nm, H, W)
        means = rest[:, :, :nm, :, :]
        coeffs = torch.tanh(rest[:, :, 2 * nm : 3 * nm, :, :])
        x = (means * pi.unsqueeze(1)).sum(2)
        k = (coeffs * pi.unsqueeze(1)).sum(2)
        x0 = torch.clamp(x[:, 0, :, :], -1, 1.0)
        x1 = torch.clamp(x[:, 1, :, :] + k[:, 0, :, :] * x0, -1, 1.0)
        x2 = torch.clamp(x[:, 2, :, :] + k[:, 1, :, :] * x0 + k[:, 2, :, :] * x1, -1, 1.0)
        return torch.cat([x0.unsqueeze(1), x1.unsqueeze(1), x2.unsqueeze(1)], 1) / 2.0 + 0.5


class SineLayer(nn.Module):
    def __init__(self, i: int, o: int, first: bool, omega: float = 30.0) -> None:
        super().__init__()
        self.omega_0 = omega
        self.linear = nn.Linear(i, o)
        bound = 1 / i if first else math.sqrt(6 / i) / omega
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sin(self.omega_0 * self.linear(x))


@architecture(
    "SIREN", 2020, "Implicit Neural Representations with Periodic Activations", numbers(1, 40, 2)
)
class SIREN(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            SineLayer(2, 24, True), SineLayer(24, 24, False), SineLayer(24, 24, False)
        )
        self.final = nn.Linear(24, 3)

    def forward(self, coords: torch.Tensor) -> torch.Tensor:
        coords = torch.tanh(coords)
        return self.final(self.net(coords))


@architecture(
    "NeRF",
    2020,
    "NeRF: Representing Scenes as Neural Radiance Fields",
    numbers(6, 3),
    numbers(6, 3),
)
class NeRF(nn.Module):
    """Rays from origins and directions: points, encoded positions, colours composed along a ray."""

    def __init__(self, width: int = 24, freqs: int = 4, samples: int = 8) -> None:
        super().__init__()
        self.freqs = freqs
        self.samples = samples
        embed = 3 + 6 * freqs
        self.pts_linears = nn.ModuleList(
            [nn.Linear(embed, width), nn.Linear(width, width), nn.Linear(width + embed, width)]
        )
        self.skip = 1
        self.alpha_linear = nn.Linear(width, 1)
        self.feature_linear = nn.Linear(width, width)
        self.views_linear = nn.Linear(width + 15, width)
        self.rgb_linear = nn.Linear(width, 3)
        enliven(self)

    def embed(self, x: torch.Tensor, freqs: int) -> torch.Tensor:
        out = [x]
        bands = 2.0 ** torch.linspace(0.0, freqs - 1.0, freqs)
        for i in range(freqs):
            out.append(torch.sin(x * bands[i]))
            out.append(torch.cos(x * bands[i]))
        return torch.cat(out, -1)

    def forward(
        self, rays_o: torch.Tensor, rays_d: torch.Tensor
    ) -> Tuple[torch.Tensor, torch.Tensor]:
        n_rays = rays_o.shape[0]
        viewdirs = rays_d / torch.norm(rays_d, dim=-1, keepdim=True)
        t_vals = torch.linspace(0.0, 1.0, self.samples)
        z_vals = 2.0 * (1.0 - t_vals) + 6.0 * t_vals
        z_vals = z_vals.expand([n_rays, self.samples])
        pts = rays_o[..., None, :] * 0.1 + viewdirs[..., None, :] * z_vals[..., :, None] * 0.2
        flat = self.embed(pts.reshape(-1, 3), self.freqs)
        dirs = viewdirs[:, None].expand(pts.shape).reshape(-1, 3)
        h = flat
        for i, linear in enumerate(self.pts_linears):
            h = F.relu(linear(h))
            if i == self.skip:
                h = torch.cat([flat, h], -1)
        alpha = self.alpha_linear(h)
        h = torch.cat([self.feature_linear(h), self.embed(dirs, 2)], -1)
        rgb = torch.sigmoid(self.rgb_linear(F.relu(self.views_linear(h))))
        rgb = rgb.view(n_rays, self.samples, 3)
        dists = z_vals[..., 1:] - z_vals[..., :-1]
        last = torch.full_like(dists[..., :1], 1e10)
        dists = torch.cat([dists, last], -1) * torch.norm(rays_d[..., None, :], dim=-1)
        opacity = 1.0 - torch.exp(-F.relu(alpha.view(n_rays, self.samples)) * dists)
        ones = torch.ones([n_rays, 1])
        transmitted = torch.cumprod(torch.cat([ones, 1.0 - opacity + 1e-10], -1), -1)
        weights = opacity * transmitted[:, :-1]
        colour = torch.sum(weights[..., None] * rgb, -2)
        depth = torch.sum(weights * z_vals, -1)
        return colour, depth

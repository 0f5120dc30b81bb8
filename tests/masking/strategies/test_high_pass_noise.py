"""High-pass filtered views, masked with noise: the formula, plane by plane."""

import numpy as np
import references
import torch


def reference(strategy, views, mask, where, role, generator):
    planes = views.reshape(-1, *views.shape[-2:])
    blurred = [references.gaussian_blur(p, strategy.kernel_size, strategy.sigma) for p in planes]
    seen = views - np.stack(blurred).reshape(views.shape)
    std = {"query": strategy.query_std, "hard_negative": strategy.hard_negative_std}[role]
    noise = std * torch.randn(views.shape, generator=generator).numpy()
    return np.where(mask, noise, seen)

"""What the machine's CPU is good at."""


def has_bfloat16() -> bool:
    """Whether it has units that multiply bfloat16. Without them float32 is about three times as fast."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())

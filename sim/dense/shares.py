"""Samples dealt to devices so that the last of them ends as early as whole samples allow."""

import numpy as np


def level_shares(
    seconds: np.ndarray, num_samples: int, least: np.ndarray | int = 0
) -> np.ndarray | None:
    """Deal samples so that the most seconds of any device are the least.

    Exact where no device takes less time for more samples; else a device is taken to need for some
    samples what it needs for fewer, if that is more.

    Args:
        seconds: of every device for 0 to `num_samples` samples, float
            ``[num_devices, num_samples + 1]``, 0 for none; inf where it cannot.
        num_samples: to deal.
        least: samples that each device gets in any case, int ``[num_devices]`` or one for all.

    Returns:
        Samples of every device, int ``[num_devices]``, that add up to `num_samples`; None where
        they cannot.
    """
    rising = np.maximum.accumulate(seconds, axis=1)
    if np.isfinite(rising).sum() - len(rising) < num_samples:
        return None
    every = np.broadcast_to(least, len(rising))
    is_given = np.arange(rising.shape[1]) <= every[:, None]
    if every.sum() > num_samples or np.isinf(rising[is_given]).any():
        return None
    rising[is_given] = 0.0
    enough = num_samples + len(rising) - 1  # every device has a price for no samples, too
    level_s = np.partition(rising, enough, axis=None)[enough]
    shares = (rising <= level_s).sum(axis=1) - 1
    surplus = int(shares.sum()) - num_samples
    below = np.maximum((rising < level_s).sum(axis=1) - 1, 0)
    for device in range(len(shares) - 1, -1, -1):
        left = min(surplus, int(shares[device] - below[device]))
        shares[device] -= left
        surplus -= left
    return shares

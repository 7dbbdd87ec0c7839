"""A user's own data loader: any iterable of batches will do."""

import itertools


def repeat_first_batch(loader):
    return itertools.repeat(next(iter(loader)))

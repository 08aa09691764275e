"""Checkpoints of a run: written beside the training, whole or not at all, checked before they are believed.

* `save` copies the state to the host and returns; a thread writes it. What goes wrong there is raised by the
  next call, in the caller's thread.
* A checkpoint appears under its name by one rename, synced before: a kill at any moment leaves the earlier
  ones and at most a half-written folder, which says so by its name.
* Every file is listed with its SHA-256. `restore` takes the newest checkpoint whose every byte is as it was
  written, and says which newer ones it had to pass over.
* A leaf is whole in the files, however many devices held parts of it; it is restored onto whatever mesh `like`
  is on. Of several processes the first one writes, and each reads for itself: the folder is one that all see.
* Only whole checkpoints that enough newer whole ones stand in for are deleted; what cannot be read is left
  for its owner to look at. Orbax's `CheckpointManager` deletes by number alone, and believes what it finds;
  that is why Orbax writes the arrays here and this package does the rest.

    checkpoints/00000012/state/      the arrays, by Orbax: a flat dictionary, path of the leaf -> array
    checkpoints/00000012/meta.json   iteration, extra, and what every leaf is
    checkpoints/00000012/SHA256SUMS  of every file above, as `sha256sum --check` reads it
    checkpoints/00000012-1/          the same iteration saved once more: it counts as the newer one
    checkpoints/.00000013.partial/   being written, or left over from a kill
    checkpoints/.00000009.old/       being deleted, or left over from a kill
"""

from vldac.checkpoint.checkpointer import Checkpointer, CheckpointError, CheckpointMismatch, Found, Restored

__all__ = ["CheckpointError", "CheckpointMismatch", "Checkpointer", "Found", "Restored"]

"""Imported by Python itself at its start: files behave as in a bucket that is mounted.

What Cloud Storage FUSE does not do is refused as it refuses it:
https://github.com/GoogleCloudPlatform/gcsfuse/blob/master/docs/semantics.md
"""

import errno
import fcntl
import os

RENAME = os.rename


def rename(source, target, **options):
    if os.path.isdir(source) and os.listdir(source):
        raise OSError(errno.EMFILE, "too many objects to be renamed")
    RENAME(source, target, **options)


def refuse(*arguments, **options):
    raise OSError(errno.ENOTSUP, "Operation not supported")


os.rename = rename
os.link = refuse
os.chmod = lambda *arguments, **options: None
fcntl.flock = refuse
fcntl.lockf = refuse

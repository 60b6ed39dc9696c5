"""Sharded tensors on disk, through `torch.distributed.checkpoint`: written by all ranks, read by any number of them.

Only tensors go through it. It keeps all other values as pickles, and so it does an index of the tensors, `.metadata`;
reading a pickle can run code. Here other values are kept elsewhere, and the index is read by an unpickler that makes
the few types an index is made of and refuses all others.
"""

from __future__ import annotations

import io
import pickle
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor, distributed
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta, TensorStorageMetadata

INDEX = ".metadata"
"""The file that says which part of which tensor is where."""

_INDEX_TYPES = frozenset(
    [
        *(
            ("torch.distributed.checkpoint.metadata", name)
            for name in (
                "ChunkStorageMetadata",
                "Metadata",
                "MetadataIndex",
                "StorageMeta",
                "TensorProperties",
                "TensorStorageMetadata",
                "_MEM_FORMAT_ENCODING",
            )
        ),
        ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
        ("torch.serialization", "_get_layout"),
        ("torch", "Size"),
        *((module, f"{kind}Path") for module in ("pathlib", "pathlib._local") for kind in ("Posix", "Windows")),
    ]
)
"""What an index is made of, besides dtypes, by module and name; none of it does anything when it is made."""


def write_shards(folder: Path, shards: Mapping[str, Tensor], group: distributed.ProcessGroup) -> None:
    """Write the parts of sharded tensors and force them to the disk; every rank of a group calls it together.

    Args:
        folder: where they shall lie; it is made.
        shards: the tensors, by name, on the host.
        group: the ranks.

    Raises:
        CheckpointException: on every rank, if one of them fails.
    """
    writer = FileSystemWriter(folder, sync_files=True)
    dcp.save(dict(shards), storage_writer=writer, process_group=group)  # type: ignore[attr-defined]


def read_shards(folder: Path, targets: Mapping[str, Tensor]) -> None:
    """Read sharded tensors, each cut as its target is, whoever wrote how many parts; no other rank is asked.

    Args:
        folder: where they lie.
        targets: what they are read into, by name: sharded tensors, of which this rank's part is read, or whole ones.

    Raises:
        UnpicklingError: if the index is not one of tensors.
        Exception: whatever else reading damaged files raises.
    """
    reader, planner = _CarefulReader(folder), _TensorsOnly()
    held = reader.read_metadata().state_dict_metadata
    for name in targets:
        if not isinstance(held.get(name), TensorStorageMetadata):
            raise pickle.UnpicklingError(f"{INDEX} has no tensor {name!r}")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled")  # no other rank is meant to be asked
        dcp.load(dict(targets), storage_reader=reader, planner=planner, no_dist=True)  # type: ignore[attr-defined]


class _IndexUnpickler(pickle.Unpickler):
    """Makes nothing but what an index is made of."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _INDEX_TYPES or (
            module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        ):
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"{INDEX} holds a {module}.{name}, which no index is made of")


class _CarefulReader(FileSystemReader):
    """Reads an index by `_IndexUnpickler`, and no file outside of its folder."""

    def read_metadata(self, *_: Any, **__: Any) -> Metadata:
        index = _IndexUnpickler(io.BytesIO((Path(self.path) / INDEX).read_bytes())).load()
        if not isinstance(index, Metadata):
            raise pickle.UnpicklingError(f"{INDEX} is no index")
        for where in (index.storage_data or {}).values():
            if Path(where.relative_path).name != where.relative_path:
                raise pickle.UnpicklingError(f"{INDEX} names a file outside of its folder: {where.relative_path!r}")
        index.storage_meta = StorageMeta(load_id=self.load_id)
        return index


class _TensorsOnly(DefaultLoadPlanner):
    """Reads tensors, and refuses the pickles that all other values would be."""

    def load_bytes(self, read_item: Any, _: io.BytesIO) -> None:
        raise pickle.UnpicklingError(f"{read_item.dest_index.fqn!r} is no tensor")

"""TensorBoard event files, as PyTorch and TensorFlow write them; the bytes are made here, bit by bit."""

from __future__ import annotations

import struct
from math import inf, nan
from pathlib import Path

import pytest

from tests.readers.logs import column, is_same, write
from trimtab.errors import InputError
from trimtab.readers import read_log
from trimtab.readers.wire import mask_checksum

NAME = "events.out.tfevents.1700000000.host.1.0"


def varint(number: int) -> bytes:
    number &= (1 << 64) - 1
    return bytes([number]) if number < 128 else bytes([number & 127 | 128]) + varint(number >> 7)


def pack(number: int, content: bytes) -> bytes:
    """A field that holds bytes."""
    return varint(number << 3 | 2) + varint(len(content)) + content


def divide(content: bytes) -> int:
    """The CRC-32C by long division of bits: slow, and made from its definition alone."""
    remainder = 0xFFFFFFFF
    for byte in content:
        for place in range(8):
            is_odd = (remainder ^ byte >> place) & 1
            remainder = remainder >> 1 ^ (0x82F63B78 if is_odd else 0)
    remainder ^= 0xFFFFFFFF
    return ((remainder >> 15 | remainder << 17 & 0xFFFFFFFF) + 0xA282EAD8) & 0xFFFFFFFF


def frame(event: bytes) -> bytes:
    length = struct.pack("<Q", len(event))
    return length + struct.pack("<I", divide(length)) + event + struct.pack("<I", divide(event))


def event(step: int, *values: bytes, time: float = 1.7e9) -> bytes:
    summary = pack(5, b"".join(pack(1, value) for value in values)) if values else b""
    return frame(b"\x09" + struct.pack("<d", time) + b"\x10" + varint(step) + summary)


def simple(tag: str, number: float) -> bytes:
    """A value as `add_scalar` of PyTorch writes it."""
    return pack(1, tag.encode()) + b"\x15" + struct.pack("<f", number)


def tensor(tag: str, content: bytes) -> bytes:
    """A value as `tf.summary.scalar` writes it: a tensor, and the plugin in its metadata."""
    return pack(1, tag.encode()) + pack(9, pack(1, pack(1, b"scalars"))) + pack(8, content)


START = frame(b"\x09" + struct.pack("<d", 1.7e9) + pack(3, b"brain.Event:2"))


def test_checksum_is_the_standard_one() -> None:
    """The checksum of the nine digits is the one that the standard gives, masked."""
    unmasked = mask_checksum(b"123456789") - 0xA282EAD8 & 0xFFFFFFFF
    assert (unmasked >> 17 | unmasked << 15) & 0xFFFFFFFF == 0xE3069283
    assert mask_checksum(b"123456789") == divide(b"123456789")


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(simple("Loss/train", 2.5), id="simple-value"),
        pytest.param(tensor("loss", b"\x08\x01\x12\x00" + pack(4, struct.pack("<f", 2.5))), id="float-content"),
        pytest.param(tensor("loss", b"\x08\x01" + pack(5, struct.pack("<f", 2.5))), id="float-list"),
        pytest.param(tensor("loss", b"\x08\x01\x2d" + struct.pack("<f", 2.5)), id="float-alone"),
        pytest.param(tensor("loss", b"\x08\x02" + pack(4, struct.pack("<d", 2.5))), id="double-content"),
        pytest.param(tensor("loss", b"\x08\x02" + pack(6, struct.pack("<d", 2.5))), id="double-list"),
        pytest.param(tensor("loss", b"\x08\x13" + pack(4, struct.pack("<e", 2.5))), id="half-content"),
        pytest.param(tensor("loss", b"\x08\x13\x68" + varint(0x4100)), id="half-as-integer"),
        pytest.param(tensor("loss", b"\x08\x0e" + pack(4, b"\x20\x40")), id="bfloat16-content"),
    ],
)
def test_reads_scalar(tmp_path: Path, value: bytes) -> None:
    """A scalar is read in each of the ways in which it may be written."""
    log = read_log(write(tmp_path, NAME, START + event(7, value)))
    assert (log.format, column(log, "loss")) == ("tensorboard", {7: 2.5})


@pytest.mark.parametrize(("number", "expected"), [(nan, nan), (inf, inf), (-inf, -inf), (2**0.5, 1.4142135381698608)])
def test_reads_any_number(tmp_path: Path, number: float, expected: float) -> None:
    """A number is read as it is, in float32, whether it is finite or not; a step may need several bytes."""
    log = read_log(write(tmp_path, NAME, START + event(123_456_789, simple("loss", number))))
    assert is_same(column(log, "loss"), {123_456_789: expected})


def test_passes_over_what_is_no_scalar(tmp_path: Path) -> None:
    """Texts, pictures, histograms and tensors of more than one number are passed over."""
    text = tensor("args/text_summary", b"\x08\x07" + pack(8, b"fp16"))
    several = tensor("lrs", b"\x08\x01" + pack(4, struct.pack("<2f", 1, 2)))
    histogram = pack(1, b"weights") + pack(5, struct.pack("<d", 1.0))
    log = read_log(write(tmp_path, NAME, START + event(1, simple("loss", 2.5), text, several, histogram)))
    assert log.columns == {"global_step": "step", "loss": "loss"}


def test_merges_tags_and_files(tmp_path: Path) -> None:
    """The tags of a folder come together by step; a second file is the run resumed, and its steps count."""
    first = START + b"".join(
        event(s, simple("train/loss", s)) + event(s, simple("lr-AdamW", 0.5)) for s in (1, 2, 3, 4)
    )
    second = START + b"".join(event(s, simple("train/loss", 10 + s), simple("eval/loss", 7)) for s in (3, 4))
    write(tmp_path, NAME, first)
    write(tmp_path, NAME.replace("17", "18"), second)
    log = read_log(tmp_path)
    assert column(log, "loss") == {1: 1.0, 2: 2.0, 3: 13.0, 4: 14.0}
    assert column(log, "learning_rate") == {1: 0.5, 2: 0.5}
    assert column(log, "val_loss", "review") == {3: 7.0, 4: 7.0}
    assert any("went back from step 4 to 3" in note for note in log.notes)


def test_parts_of_a_run_in_subfolders(tmp_path: Path) -> None:
    """Keras writes training and validation into folders of their own, under the same tag."""
    for folder, number in (("train", 2.5), ("validation", 3.5)):
        write(tmp_path, f"{folder}/{NAME}", START + event(0, simple("epoch_loss", number)))
    log = read_log(tmp_path)
    assert column(log, "loss") == {0: 2.5}
    assert column(log, "val_loss", "review") == {0: 3.5}


def test_refuses_several_runs(tmp_path: Path) -> None:
    """A folder of several runs is refused, and they are named."""
    for folder in ("a", "b"):
        write(tmp_path, f"{folder}/{NAME}", START + event(1, simple("loss", 1)))
    with pytest.raises(InputError, match="holds several runs; name the folder of one of a, b"):
        read_log(tmp_path)


@pytest.mark.parametrize(
    ("end", "note"),
    [
        pytest.param(event(3, simple("loss", 3))[:-5], "it ends in the middle of an event", id="cut-in-an-event"),
        pytest.param(event(3, simple("loss", 3))[:7], "it ends in the middle of an event", id="cut-in-a-length"),
        pytest.param(b"\0" * 64, "it is damaged at byte", id="zeros"),
        pytest.param(frame(b"\x0f\x01"), "an event has a field of the unknown kind 7", id="no-message"),
        pytest.param(frame(b"\x10\xff"), "an event has a number without an end", id="endless-number"),
        pytest.param(frame(pack(5, b"\x0a\x7f")), "an event is shorter than it says", id="short-message"),
    ],
)
def test_reads_up_to_damage(tmp_path: Path, end: bytes, note: str) -> None:
    """Of a damaged file what comes before is read, and a note says where it ends."""
    content = START + event(1, simple("loss", 1)) + event(2, simple("loss", 2)) + end
    log = read_log(write(tmp_path, NAME, content))
    assert column(log, "loss") == {1: 1.0, 2: 2.0}
    assert any(note in each for each in log.notes)


def test_tags_in_folders_of_their_own(tmp_path: Path) -> None:
    """What `add_scalars` writes into subfolders belongs to the run above, also where the folder over it is named."""
    write(tmp_path, f"runs/mine/{NAME}", START + event(1, simple("loss", 2.5)))
    write(tmp_path, f"runs/mine/loss_val/{NAME}", START + event(1, simple("loss", 3.5)))
    log = read_log(tmp_path / "runs")
    assert column(log, "loss") == {1: 2.5}
    assert set(log.columns) == {"global_step", "loss", "loss_val/loss"}


def test_output_of_the_trainer(tmp_path: Path) -> None:
    """The Hugging Face Trainer leaves event files beside its checkpoints; the history in these is read."""
    for folder in ("a", "b"):
        write(tmp_path, f"runs/{folder}/{NAME}", START + event(1, simple("loss", 1)))
    write(tmp_path, "checkpoint-3/trainer_state.json", '{"log_history": [{"loss": 2.5, "step": 3}]}')
    assert read_log(tmp_path).format == "trainer-state"

import numpy as np
import numpy.typing as npt
import pytest

from shard_store.bitpack import CODE_PLANES, pack_codes


def unpack(packed: npt.NDArray[np.uint8], bitwidth: int, size: int) -> list[int]:
    """The specification's words, one code at a time."""
    planes = CODE_PLANES[bitwidth]
    groups = size // planes.group
    part = groups // planes.parts
    codes = []
    for group in range(groups):
        index = int(packed[group])
        if planes.parts > 1:
            field = int(packed[groups + group % part]) >> (planes.high_bits * (group // part))
            index |= (field & ((1 << planes.high_bits) - 1)) << 8
        codes += [(index >> (bitwidth * place)) & ((1 << bitwidth) - 1) for place in range(planes.group)]
    return codes


@pytest.mark.parametrize("bitwidth", CODE_PLANES)
@pytest.mark.parametrize("size", [8, 24, 1000])
def test_codes_come_back(bitwidth: int, size: int) -> None:
    codes = np.random.default_rng(size).integers(0, 1 << bitwidth, size, np.uint8)
    packed = pack_codes(codes, CODE_PLANES[bitwidth])
    assert packed.size == CODE_PLANES[bitwidth].packed_bytes(size) == size * bitwidth / 8
    assert unpack(packed, bitwidth, size) == codes.tolist()


def test_known_bytes() -> None:
    """The worked examples of docs/format.md."""
    codes = np.arange(8, dtype=np.uint8)
    assert pack_codes(codes % 4, CODE_PLANES[2]).tolist() == [0xE4, 0xE4]
    assert pack_codes(codes, CODE_PLANES[3]).tolist() == [0x88, 0xAC, 0xF6]
    assert pack_codes(codes, CODE_PLANES[4]).tolist() == [0x10, 0x32, 0x54, 0x76]
    assert pack_codes(codes, CODE_PLANES[5]).tolist() == [0x20, 0x62, 0xA4, 0xE6, 0x00]
    assert pack_codes(codes, CODE_PLANES[6]).tolist() == [0x40, 0xC2, 0x44, 0xC6, 0x10, 0x10]

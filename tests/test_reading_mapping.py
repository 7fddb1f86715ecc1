"""Where maps lie in the address space."""

import mmap
import os
import sys
from pathlib import Path

import pytest

from weighbridge.engine import mapping
from weighbridge.engine.errors import ReadError
from weighbridge.engine.mapping import Mapper
from weighbridge.engine.reading import Files

PERIOD = 256 << 20  # addresses that agree modulo this share lines of the first-level cache


@pytest.fixture
def sparse(tmp_path):
    """Files of equal size, of which nothing is on the disk."""

    def make(count, nbytes):
        paths = [tmp_path / str(number) for number in range(count)]
        for number, path in enumerate(paths):
            with open(path, "wb") as file:
                file.write(bytes([number]))
                file.truncate(nbytes)
        return paths

    return make


@pytest.mark.parametrize("nbytes", [PERIOD, 4 * PERIOD, 4 * PERIOD - 5, PERIOD // 2, 3 << 20])
def test_files_of_one_size_are_mapped_to_different_colours(sparse, nbytes):
    with Files("map") as files:
        starts = [files.file(str(path)).mapped.ctypes.data for path in sparse(9, nbytes)]
    assert len({start // mapping._STEP % mapping._COLOURS for start in starts}) == 9


@pytest.mark.skipif(sys.platform != "linux", reason="maps are moved on Linux")
def test_where_no_place_below_is_free_the_one_above_is_asked_for(sparse, monkeypatch):
    """As where maps grow upwards: the system puts the map back to where it was."""
    real, wishes = mapping._map_near, []

    def near(wish, *rest):
        wishes.append(wish)
        return real(0, *rest)

    monkeypatch.setattr(mapping, "_map_near", near)
    (path,) = sparse(1, 3 << 20)
    mapper = Mapper()
    with open(path, "rb") as file:
        first = mapper.map(file.fileno(), 3 << 20)
        assert not wishes
        (colour,) = mapper._taken
        free = (colour + mapping._COLOURS // 2) % mapping._COLOURS
        mapper._taken = set(range(mapping._COLOURS)) - {free}
        second = mapper.map(file.fileno(), 3 << 20)
    assert len(wishes) == 2 and wishes[1] - wishes[0] == PERIOD
    assert {wish // mapping._STEP % mapping._COLOURS for wish in wishes} == {free}
    assert first[0] == second[0] == 0 and len(second) == 3 << 20


def test_a_file_that_was_cut_short_before_it_is_mapped(sparse):
    (path,) = sparse(1, 3 << 20)
    with Files("map") as files:
        file = files.file(str(path))
        os.truncate(path, 5000)
        with pytest.raises(ReadError, match=r"changed while it was being read \(3,145,728 bytes before, 5,000 after\)"):
            assert file.mapped is not None


def test_a_map_that_was_moved_shows_the_file(sparse):
    mapper = Mapper()
    maps = []
    for path in sparse(3, PERIOD):
        with open(path, "rb") as file:
            maps.append(mapper.map(file.fileno(), PERIOD - mmap.PAGESIZE, 0))
    assert [(data[0], data[1], len(data)) for data in maps] == [(k, 0, PERIOD - mmap.PAGESIZE) for k in range(3)]


def test_colours_run_out_and_begin_again(sparse):
    (path,) = sparse(1, 2 * mapping._STEP)
    mapper = Mapper()
    with open(path, "rb") as file:
        maps = [mapper.map(file.fileno(), 2 * mapping._STEP) for _ in range(mapping._COLOURS + 9)]
    assert len({data.ctypes.data % PERIOD for data in maps}) > mapping._COLOURS // 2
    assert all(data is not None for data in maps)


def test_a_place_that_is_taken_costs_nothing_but_the_better_place(sparse, monkeypatch):
    real = mapping._map_near
    monkeypatch.setattr(mapping, "_map_near", lambda wish, *rest: real(0, *rest))
    mapper = Mapper()
    maps = []
    for path in sparse(3, PERIOD):
        with open(path, "rb") as file:
            maps.append(mapper.map(file.fileno(), PERIOD))
    assert [data[0] for data in maps] == [0, 1, 2]


@pytest.mark.skipif(sys.platform != "linux", reason="maps are moved, and told, on Linux")
def test_a_map_that_was_moved_goes_with_the_last_array_that_shows_it(sparse):
    paths = sparse(2, PERIOD)
    mapper = Mapper()
    with open(paths[0], "rb") as first, open(paths[1], "rb") as second:
        stays = mapper.map(first.fileno(), PERIOD)
        view = mapper.map(second.fileno(), PERIOD)[5:9]
    assert str(paths[1]) in Path("/proc/self/maps").read_text()
    assert not view.flags.writeable
    del view
    assert str(paths[1]) not in Path("/proc/self/maps").read_text()
    assert stays[0] == 0


def test_a_file_that_finds_no_room_has_no_map(sparse, monkeypatch):
    (path,) = sparse(1, PERIOD)

    def refused(*arguments, **options):
        raise OSError(12, os.strerror(12))

    monkeypatch.setattr(mapping.mmap, "mmap", refused)
    with open(path, "rb") as file:
        assert Mapper().map(file.fileno(), PERIOD) is None

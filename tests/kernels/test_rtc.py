"""Run-time compilation without a compiler: finding libraries, the cache, refusals, what reaches the driver."""

from __future__ import annotations

import ctypes
import logging
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from nerfstudio_ext.errors import UserError
from nerfstudio_ext.kernels import rtc, rtc_libraries
from nerfstudio_ext.kernels.rtc_cache import Compiled, DiskCache
from nerfstudio_ext.kernels.rtc_compile import (
    CompileError,
    Nvrtc,
    Program,
    Resources,
    compiled,
    key_of,
    resources_of,
    target_for,
)
from nerfstudio_ext.kernels.rtc_driver import Driver, DriverError
from nerfstudio_ext.kernels.rtc_libraries import CudaUnavailable, load_driver, load_nvrtc, nvrtc_files

from .fake_cuda import CPU, LOG, FakeDriver, FakeNvrtc, fake_tools

PROGRAM = Program("field.cu", "int x;", headers={"common.cuh": "// shared"}, defines={"LEVELS": 16, "F": 2})


def _no_library(name: str) -> ctypes.CDLL:
    raise OSError(f"{name}: cannot open")


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[rtc.Module, FakeDriver]:
    monkeypatch.setattr(rtc, "architecture_of", lambda device: 90)
    monkeypatch.setattr(rtc, "_stream_of", lambda device: 77)
    driver = FakeDriver()
    return rtc.Module(PROGRAM, CPU, fake_tools(tmp_path, driver=driver)), driver


# finding libraries


def test_nvrtc_is_found_beside_torch_and_helpers_are_not_taken_for_it(tmp_path: Path) -> None:
    for name in ("libnvrtc.so.12", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0", "libnvrtc.alt.so.13", "libcuda.so.1"):
        (tmp_path / name).touch()
    assert [f.name for f in nvrtc_files(tmp_path, is_windows=False)] == ["libnvrtc.so.13", "libnvrtc.so.12"]
    for name in ("nvrtc64_120_0.dll", "nvrtc64_130_0.dll", "nvrtc-builtins64_130.dll", "nvrtc64_130_0.alt.dll"):
        (tmp_path / name).touch()
    assert [f.name for f in nvrtc_files(tmp_path, is_windows=True)] == ["nvrtc64_130_0.dll", "nvrtc64_120_0.dll"]
    assert nvrtc_files(tmp_path / "absent") == []


@pytest.mark.parametrize("version, expected", [("13.0", "13"), ("12.8", "12"), (None, "13")])
def test_the_compiler_of_torchs_own_generation_is_taken(tmp_path: Path, version: str | None, expected: str) -> None:
    (tmp_path / "libnvrtc.so.12").touch()
    (tmp_path / "libnvrtc.so.13").touch()
    loaded = load_nvrtc(version, load=lambda name: name, folders=iter([tmp_path]), environ={})  # type: ignore[arg-type, return-value]
    assert str(loaded).endswith(f".so.{expected}")


def test_a_named_library_goes_first_and_must_load(tmp_path: Path) -> None:
    environ = {rtc_libraries.OVERRIDE: "/opt/libnvrtc.so"}
    assert load_nvrtc("13.0", load=lambda name: name, environ=environ) == "/opt/libnvrtc.so"  # type: ignore[arg-type, comparison-overlap, return-value]
    with pytest.raises(CudaUnavailable, match="NSX_NVRTC=/opt/libnvrtc.so does not load"):
        load_nvrtc("13.0", load=_no_library, environ=environ)


def test_a_missing_or_broken_library_is_one_line_with_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(CudaUnavailable, match=r"NVRTC.* is not installed\. Install a CUDA build of torch") as caught:
        load_nvrtc("13.0", load=_no_library, folders=iter([tmp_path]), environ={})
    assert "\n" not in caught.value.line
    (tmp_path / "libnvrtc.so.13").touch()
    with pytest.raises(CudaUnavailable, match="libnvrtc.so.13 does not load"):
        load_nvrtc("13.0", load=_no_library, folders=iter([tmp_path]), environ={})
    with pytest.raises(CudaUnavailable, match="the NVIDIA driver does not load.*--device cpu"):
        load_driver(load=_no_library)


def test_folders_of_installed_packages_come_before_toolkits(tmp_path: Path) -> None:
    folders = [str(f) for f in rtc_libraries.library_folders({"CUDA_HOME": str(tmp_path)})]
    torch_lib = str(Path(torch.__file__).parent / "lib")
    assert folders.index(torch_lib) < folders.index(str(tmp_path / "lib64"))


# compiling


def test_everything_reaches_the_compiler(tmp_path: Path) -> None:
    library = FakeNvrtc()
    result = compiled(PROGRAM, 90, Nvrtc(library), DiskCache(tmp_path))
    (program,) = library.programs.values()
    assert program["headers"] == {"common.cuh": "// shared"} and program["name"] == b"field.cu"
    assert {"-DLEVELS=16", "-DF=2", "--gpu-architecture=sm_90", "--std=c++17"} <= set(program["options"])
    assert result.code.endswith(b"int x;") and library.destroyed == 1


def test_target_is_the_device_or_the_nearest_older_one_as_text_for_the_driver() -> None:
    assert target_for(86, [75, 80, 86, 90]) == "sm_86"
    assert target_for(103, [75, 80, 90]) == "compute_90"
    with pytest.raises(UserError, match="knows sm_75 and newer, the device is sm_61.*earlier CUDA"):
        target_for(61, [75, 80])


def test_a_refused_program_is_one_line_and_the_whole_log_is_kept(tmp_path: Path) -> None:
    log = "field.cu(3): note: x\nfield.cu(7): error: identifier 'y' is undefined\n" + "more\n" * 100
    library = FakeNvrtc(refuses=log)
    with pytest.raises(CompileError, match="do not compile for sm_90: .*identifier 'y' is undefined") as caught:
        compiled(PROGRAM, 90, Nvrtc(library), DiskCache(tmp_path))
    assert "\n" not in caught.value.line and len(caught.value.line) < 400
    (kept,) = tmp_path.glob("*.log")
    assert kept.read_text().strip() == log.strip() == caught.value.log
    assert library.destroyed == 1 and not list(tmp_path.glob("*.cubin"))


def test_resources_are_read_from_the_log() -> None:
    assert resources_of(LOG) == {"march": Resources(40, 12, 16, 20480), "adam": Resources(18, 0, 0, 0)}
    assert resources_of("") == {}


# the cache


def test_a_second_process_does_not_compile(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = FakeNvrtc()
    with caplog.at_level(logging.WARNING):
        first = compiled(PROGRAM, 90, Nvrtc(library), DiskCache(tmp_path))
        second = compiled(PROGRAM, 90, Nvrtc(library), DiskCache(tmp_path))
    assert library.n_compiled == 1 and first == second
    assert [r.getMessage() for r in caplog.records if "compiling" in r.getMessage()] == [
        "compiling CUDA kernels (field.cu) for sm_90, once on this machine ..."
    ]


@pytest.mark.parametrize(
    "other",
    [
        replace(PROGRAM, source="int y;"),
        replace(PROGRAM, headers={"common.cuh": "// changed"}),
        replace(PROGRAM, headers={"other.cuh": "// shared"}),
        replace(PROGRAM, defines={"LEVELS": 8, "F": 2}),
        replace(PROGRAM, options=("--use_fast_math",)),
    ],
)
def test_whatever_changes_the_result_changes_the_key(other: Program) -> None:
    assert key_of(other, "sm_90", (13, 0)) != key_of(PROGRAM, "sm_90", (13, 0))
    assert key_of(PROGRAM, "sm_80", (13, 0)) != key_of(PROGRAM, "sm_90", (13, 0)) != key_of(PROGRAM, "sm_90", (12, 9))


@pytest.mark.parametrize(
    "damage",
    [lambda data: data[:-1], lambda data: b"", lambda data: data[:70] + b"X" + data[71:], lambda data: b"junk" * 50],
    ids=["cut short", "empty", "one byte changed", "something else"],
)
def test_a_damaged_entry_is_compiled_anew(tmp_path: Path, damage: object) -> None:
    library, cache = FakeNvrtc(), DiskCache(tmp_path)
    first = compiled(PROGRAM, 90, Nvrtc(library), cache)
    (entry,) = tmp_path.glob("*.cubin")
    entry.write_bytes(damage(entry.read_bytes()))  # type: ignore[operator]
    assert compiled(PROGRAM, 90, Nvrtc(library), cache) == first
    assert library.n_compiled == 2
    assert compiled(PROGRAM, 90, Nvrtc(library), cache) == first and library.n_compiled == 2


def test_concurrent_writers_leave_one_whole_entry(tmp_path: Path) -> None:
    texts = [Compiled(bytes([n]) * 200_000, f"log {n}") for n in range(8)]
    found: list[Compiled | None] = []

    def work(own: Compiled) -> None:
        cache = DiskCache(tmp_path)
        for _ in range(10):
            cache.put("key", own)
            found.append(cache.get("key"))

    threads = [threading.Thread(target=work, args=(own,)) for own in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 80 and all(each in texts for each in found)
    assert [p.name for p in tmp_path.iterdir()] == ["key.cubin"]


def test_the_least_recently_used_entries_go_when_space_runs_out(tmp_path: Path) -> None:
    import os

    cache = DiskCache(tmp_path, max_bytes=3500)
    for age, name in enumerate("abc"):
        cache.put(name, Compiled(b"x" * 1000, ""))
        os.utime(tmp_path / f"{name}.cubin", (1000 + age, 1000 + age))
    assert cache.get("a") is not None  # used again: "b" is now the oldest
    cache.put("d", Compiled(b"x" * 1000, ""))
    assert sorted(p.stem for p in tmp_path.glob("*.cubin")) == ["a", "c", "d"]
    DiskCache(tmp_path, max_bytes=10).put("e", Compiled(b"x" * 1000, ""))
    assert [p.stem for p in tmp_path.glob("*.cubin")] == ["e"]  # what was just made stays


def test_a_folder_that_cannot_be_written_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    cache, library = DiskCache(blocked / "cuda"), FakeNvrtc()
    for _ in range(2):
        compiled(PROGRAM, 90, Nvrtc(library), cache)
    assert library.n_compiled == 2
    assert sum("cannot be kept" in record.getMessage() for record in caplog.records) == 1


# loading and launching


def test_arguments_reach_the_driver_as_their_types(module: tuple[rtc.Module, FakeDriver]) -> None:
    loaded, driver = module
    tensor, constants = torch.arange(4), (ctypes.c_int64 * 2)(5, 6)
    loaded["march"]((3, 2), 128, tensor, None, 7, 0.5, constants, shared_bytes=1024)
    (launch,) = driver.launches
    assert [launch[k] for k in ("gx", "gy", "gz", "bx", "by", "bz", "shared")] == [3, 2, 1, 128, 1, 1, 1024]
    assert launch["stream"].value == 77 and not driver.asked_shared


def test_pointers_point_to_the_values(module: tuple[rtc.Module, FakeDriver], monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, driver = module
    seen: list[object] = []

    def look(function: object, grid: object, block: object, shared: int, stream: int, pointers: object) -> None:
        types = (ctypes.c_void_p, ctypes.c_int32, ctypes.c_float)
        seen.extend(ctypes.cast(pointers[i], ctypes.POINTER(t))[0] for i, t in enumerate(types))  # type: ignore[index]

    monkeypatch.setattr(loaded["march"]._driver, "launch", look)
    tensor = torch.arange(4)
    loaded["march"](1, 32, tensor, -7, 0.25)
    assert seen == [tensor.data_ptr(), -7, 0.25]


def test_much_shared_memory_is_asked_for_once(module: tuple[rtc.Module, FakeDriver]) -> None:
    loaded, driver = module
    for n_bytes in (40_000, 100_000, 100_000, 60_000):
        loaded["march"](1, 32, shared_bytes=n_bytes)
    assert driver.asked_shared == [100_000] and len(driver.launches) == 4


def test_nothing_is_launched_for_no_blocks(module: tuple[rtc.Module, FakeDriver]) -> None:
    loaded, driver = module
    loaded["march"](0, 128)
    assert not driver.launches


def test_wrong_arguments_are_refused_before_they_become_pointers(module: tuple[rtc.Module, FakeDriver]) -> None:
    loaded, driver = module
    with pytest.raises(ValueError, match="march: argument 1 must be contiguous on cpu"):
        loaded["march"](1, 32, 1, torch.zeros(4, 4).T)
    with pytest.raises(ValueError, match="beyond 32 bits"):
        loaded["march"](1, 32, 1 << 31)
    assert not driver.launches


def test_driver_errors_say_what_failed_and_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rtc, "architecture_of", lambda device: 90)
    tools = fake_tools(tmp_path, driver=FakeDriver({"cuModuleLoadData": 222}))
    with pytest.raises(DriverError, match=r"cuModuleLoadData failed: reason 222\. The driver is older than this torch"):
        rtc.Module(PROGRAM, CPU, tools)
    with pytest.raises(DriverError, match="cuInit failed: reason 100"):
        Driver(FakeDriver({"cuInit": 100}))


def test_shared_memory_is_the_blocks_and_the_processors() -> None:
    assert Driver(FakeDriver()).shared_memory(0) == (227 << 10, 228 << 10)


def test_absence_tells_the_first_thing_that_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    def reason(architecture: int = 90, *, has_device: bool = True, cuda: str | None = "13.0") -> str:
        rtc.absence.cache_clear()
        monkeypatch.setattr(torch.cuda, "is_available", lambda: has_device)
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(rtc, "architecture_of", lambda device: architecture)
        return rtc.absence()

    def broken() -> rtc.Toolchain:
        raise CudaUnavailable("NVRTC is not installed")

    try:
        assert reason(has_device=False) == "torch finds no CUDA device"
        assert "not built for NVIDIA" in reason(cuda=None)
        assert "sm_61, the CUDA kernels need sm_75" in reason(61)
        monkeypatch.setattr(rtc, "toolchain", broken)
        assert reason() == "NVRTC is not installed"
        monkeypatch.setattr(rtc, "toolchain", lambda: fake_tools(Path("unused")))
        assert reason() == "" and reason(100) == ""
    finally:
        rtc.absence.cache_clear()

"""`mome doctor`: the fields of its report, what counts as a problem, and that nothing makes it fail."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

import mome_store
from mome_store import cuda_driver
from mome_store.cuda_driver import CudaDevice
from mome_store.errors import DeviceError
from mome_tools import doctor, machine_facts

from .conftest import Mome


@pytest.fixture(autouse=True)
def no_extension(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever this build has: `extension` puts one there."""
    monkeypatch.setitem(sys.modules, "mome_store._cuda", None)  # type: ignore[arg-type]


@pytest.fixture
def no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> None:
        raise DeviceError("cuda", "there is no NVIDIA driver here")

    monkeypatch.setattr(cuda_driver, "CudaDriver", absent)


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A driver with one device; asking for free memory, which would make a context, is a failure."""
    found = SimpleNamespace(version=lambda: 13000, devices=lambda: [CudaDevice(0, "Large", "9.0", 139 << 30)])
    monkeypatch.setattr(cuda_driver, "CudaDriver", lambda: found)
    return found


@pytest.fixture
def extension(no_extension: None, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    module = SimpleNamespace(architectures=lambda: ["sm_80", "sm_90"], runtime_version=lambda: 12040)
    monkeypatch.setitem(sys.modules, "mome_store._cuda", module)  # type: ignore[misc]
    return module


@pytest.fixture
def faiss_gpu(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    module = SimpleNamespace(__version__="1.15.1", StandardGpuResources=object, get_num_gpus=lambda: 1)
    monkeypatch.setitem(sys.modules, "faiss", module)  # type: ignore[misc]
    return module


@pytest.mark.usefixtures("no_driver")
def test_the_report_has_every_part(mome: Mome) -> None:
    ran = mome("doctor", "--json")
    assert (ran.code, ran.err) == (0, "")
    report = ran.json
    assert set(report) == {"built", "found", "used", "problems"} and report["problems"] == []
    assert set(report["built"]) == {"version", "core", "cuda"}
    assert set(report["found"]) == {
        *("system", "cpu", "memory", "driver", "devices", "torch", "faiss", "io_uring", "direct_io")
    }
    assert set(report["used"]) == {"device", "kernels", "reader", "index"}
    assert all(set(each) == {"choice", "others"} for each in report["used"].values())
    assert report["built"]["version"] == mome_store.__version__
    assert report["used"]["kernels"]["choice"] == report["built"]["core"]["instruction_sets"][-1]
    assert report["used"]["device"] == {"choice": "cpu", "others": {"cuda": "there is no NVIDIA driver here"}}
    assert report["found"]["cpu"]["cores_usable"] >= 1 and report["found"]["memory"]["page_bytes"] >= 4096
    assert report["found"]["memory"]["bytes"] > report["found"]["memory"]["bytes_available"] > 0
    assert report["found"]["torch"]["version"] and report["found"]["faiss"]["version"]


@pytest.mark.usefixtures("no_driver")
def test_people_get_lines(mome: Mome) -> None:
    ran = mome("doctor")
    assert (ran.code, ran.err) == (0, "")
    lines = ran.out.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")] == ["built", "found", "used", "no problems"]
    assert "  driver: no: there is no NVIDIA driver here" in lines
    assert f"  version: {mome_store.__version__}" in lines


@pytest.mark.usefixtures("driver", "extension", "faiss_gpu")
def test_with_all_there_a_device_is_used_on_request(mome: Mome) -> None:
    report = mome("doctor", "--json").json
    assert report["built"]["cuda"] == {"architectures": ["sm_80", "sm_90"], "runtime": "12.4", "problem": None}
    assert report["found"]["driver"]["cuda"] == "13.0"
    large = {"index": 0, "name": "Large", "compute_capability": "9.0", "memory_bytes": 139 << 30}
    assert report["found"]["devices"] == [large]
    for part in ("device", "index"):
        assert report["used"][part] == {"choice": "cpu", "others": {"cuda": "used where device='cuda' is asked for"}}
    assert report["problems"] == []
    assert "name: Large" in mome("doctor").out


@pytest.mark.usefixtures("extension")
def test_a_driver_without_a_device_is_no_problem(mome: Mome, driver: SimpleNamespace) -> None:
    driver.devices = list
    ran = mome("doctor", "--json")
    assert ran.code == 0 and ran.json["found"]["devices"] == []
    assert ran.json["used"]["device"]["others"] == {"cuda": "the driver finds no device"}


@pytest.mark.parametrize(
    ("capability", "newest", "expected"),
    [
        ("8.6", 12040, "used where device='cuda' is asked for"),
        ("12.0", 13000, "the extension was built for sm_80, sm_90, which no device here runs"),
        ("7.5", 12040, "the extension was built for sm_80, sm_90, which no device here runs"),
        ("9.0", 11080, "the driver supports CUDA up to 11.8, the extension is of CUDA 12.4: install a newer driver"),
    ],
)
@pytest.mark.usefixtures("extension")
def test_a_device_that_can_t_run_the_extension_says_why(
    mome: Mome, driver: SimpleNamespace, capability: str, newest: int, expected: str
) -> None:
    driver.version = lambda: newest
    driver.devices = lambda: [CudaDevice(0, "Other", capability, 1 << 30)]
    ran = mome("doctor", "--json")
    assert ran.code == 0 and ran.json["used"]["device"]["others"] == {"cuda": expected}


@pytest.mark.usefixtures("no_driver")
def test_a_core_that_can_t_be_loaded_is_one(mome: Mome, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise ImportError("libstdc++.so.6: version `GLIBCXX_3.4.30' not found")

    monkeypatch.setattr(doctor, "_core", broken)
    ran = mome("doctor", "--json")
    assert ran.code == 1 and ran.json["used"]["kernels"]["choice"] is None
    [problem] = ran.json["problems"]
    assert problem.startswith("mome_store._core can't be loaded: ImportError: libstdc++") and "Traceback" not in ran.err
    text = mome("doctor")
    assert text.code == 1 and text.out.endswith(f"problems\n  {problem}\n") and text.err == ""


def test_without_a_core_at_all_every_other_part_is_told(mome: Mome, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [
        name for name in sys.modules if name == "mome_store.runtime" or name.startswith("mome_store.runtime.")
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "mome_store._core", None)  # type: ignore[arg-type]
    monkeypatch.delattr(mome_store, "_core", raising=False)
    monkeypatch.delattr(mome_store, "runtime", raising=False)
    ran = mome("doctor", "--json")
    assert ran.code == 1 and len(ran.json["problems"]) == 1 and ran.err == ""
    assert ran.json["found"]["torch"]["problem"] is None and ran.json["found"]["memory"]["bytes"]
    assert "ModuleNotFoundError" in ran.json["found"]["io_uring"]["problem"]


@pytest.mark.usefixtures("no_driver")
def test_a_faiss_that_can_t_be_imported_is_a_problem(mome: Mome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)  # type: ignore[arg-type]
    ran = mome("doctor", "--json")
    assert ran.code == 1 and ran.json["problems"][0].startswith("FAISS can't be loaded: ")


@pytest.mark.usefixtures("no_driver")
def test_a_cpu_faiss_over_a_gpu_one_is_a_problem(mome: Mome, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_version", lambda name: "1.15.1" if name.startswith("faiss") else None)
    monkeypatch.setitem(sys.modules, "faiss", SimpleNamespace(__version__="1.15.1"))  # type: ignore[misc]
    ran = mome("doctor", "--json")
    assert ran.code == 1
    assert ran.json["problems"] == [
        "faiss-gpu is installed, but faiss-cpu lies over it; pip install --force-reinstall --no-deps faiss-gpu==1.15.1"
    ]


@pytest.mark.usefixtures("no_driver")
def test_an_extension_that_can_t_be_loaded_is_a_problem(mome: Mome, monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise DeviceError("cuda", "the CUDA extension can't be loaded: libx.so: not found")

    monkeypatch.setitem(sys.modules, "mome_store._cuda", Broken("mome_store._cuda"))
    ran = mome("doctor", "--json")
    assert ran.code == 1 and ran.json["problems"] == ["the CUDA extension can't be loaded: libx.so: not found"]


@pytest.mark.usefixtures("no_driver")
def test_a_store_is_opened_and_its_reader_told(mome: Mome, small_store: Path) -> None:
    before = sorted(small_store.rglob("*"))
    ran = mome("doctor", "--json", "--store", small_store)
    assert ran.code == 0
    store = ran.json["found"]["store"]
    assert (store["path"], store["experts"], store["problem"]) == (str(small_store), 3, None)
    assert store["commit"] == 1 and store["bytes"] > 0
    assert ran.json["found"]["direct_io"]["path"] == str(small_store)
    assert ran.json["used"]["reader"]["choice"] == store["reader"]
    assert store["reader"].startswith("what is in the page cache from there, the rest by ")
    assert sorted(small_store.rglob("*")) == before
    assert "  store\n" in mome("doctor", "--store", small_store).out


@pytest.mark.usefixtures("no_driver")
def test_a_store_that_does_not_open_is_a_problem(mome: Mome, small_store: Path, tmp_path: Path) -> None:
    missing = mome("doctor", "--json", "--store", tmp_path / "nothing")
    assert missing.code == 1 and missing.json["found"]["store"]["path"] == str(tmp_path / "nothing")
    assert missing.json["problems"] == [f"the store: {missing.json['found']['store']['problem']}"]
    [shard] = (file for file in (small_store / "experts" / "c").rglob("*") if file.is_file())
    shard.unlink()
    damaged = mome("doctor", "--json", "--store", small_store)
    assert damaged.code == 1 and "experts/c/" in damaged.json["problems"][0] and damaged.err == ""


def test_direct_io_is_tried_out(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_bytes(bytes(5000))
    assert machine_facts.direct_io_problem(tmp_path) == machine_facts.direct_io_problem(file)
    assert list(tmp_path.iterdir()) == [file]
    assert machine_facts.direct_io_problem(tmp_path / "missing") == "No such file or directory"
    assert machine_facts.direct_io_problem(Path("/proc/self/status")) is not None  # a file system without it


def test_a_file_system_is_that_of_the_deepest_mount() -> None:
    assert machine_facts.file_system(Path("/proc/self/status")) == "proc"
    assert machine_facts.file_system(Path("/")) not in (None, "proc")


def test_a_system_that_hides_its_files_is_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine_facts, "_text", lambda _: "")
    assert machine_facts.cpu()["features"] == [] and machine_facts.cpu()["cores"]
    assert machine_facts.memory()["bytes"] is None and machine_facts.memory()["page_bytes"]
    assert machine_facts.file_system(Path("/")) is None

"""What holds for every test: a place of its own, one thread, no network; and small data and configurations."""

import os
import shutil
import site
import socket
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

# Before torch, the hub's client and matplotlib are imported, which read these once. The workers of pytest-xdist and
# whatever tests start are below the process that makes the folder, and share it.
if "PYTEST_XDIST_WORKER" not in os.environ:
    os.environ["PX_SEG_TESTS"] = tempfile.mkdtemp(prefix="px_seg_tests_")
PLACE = Path(os.environ["PX_SEG_TESTS"])
os.environ |= {
    "PYTHONUSERBASE": os.environ.get("PYTHONUSERBASE", site.getuserbase()),
    "HOME": str(PLACE / "home"),
    "XDG_CACHE_HOME": str(PLACE / "cache"),
    "PX_SEG_CACHE": str(PLACE / "cache" / "px_seg"),
    "HF_HUB_OFFLINE": "1",
    "OMP_NUM_THREADS": "1",
}
for name in ("HF_HOME", "HF_HUB_CACHE", "TORCH_HOME", "MPLCONFIGDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME"):
    os.environ.pop(name, None)
(PLACE / "home").mkdir(exist_ok=True)

import hypothesis
import torch
from accelerate.state import AcceleratorState
from helpers.runs import make_voc, tiny_classification, tiny_segmentation
from hypothesis.configuration import set_hypothesis_home_dir

set_hypothesis_home_dir(PLACE / "hypothesis")
hypothesis.settings.register_profile("px_seg", database=None)
hypothesis.settings.load_profile("px_seg")
torch.set_num_threads(1)


def pytest_unconfigure() -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:
        shutil.rmtree(PLACE, ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def _one_core_each() -> Iterator[None]:
    """Of itself a run takes all cores, and on those are the other tests."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "sched_getaffinity", lambda _: {0}, raising=False)
        yield


@pytest.fixture(autouse=True, scope="session")
def _no_network() -> Iterator[None]:
    connect = socket.socket.connect

    def only_here(self: socket.socket, address) -> None:
        if self.family != socket.AF_UNIX and address[0] not in ("localhost", "127.0.0.1", "::1", socket.gethostname()):
            raise AssertionError(f"a test asks the network for {address}")
        return connect(self, address)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", only_here)
        yield


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    AcceleratorState._reset_state(reset_partial_state=True)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def once() -> Callable[[str, Callable[[Path], object]], Path]:
    """Makes a folder that is expensive to make and that tests only read: once, for all workers together.

    `once(name, make)` is the folder of that name; the first that asks for it has `make(folder)` fill it.
    """
    import fcntl

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = PLACE / "once" / name
        folder.parent.mkdir(exist_ok=True)
        with folder.with_name(f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            whole = folder.with_name(f"{name}.whole")
            if not whole.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                make(folder)
                whole.touch()
        return folder

    return made


@pytest.fixture
def voc(tmp_path: Path) -> Path:
    """A VOC2012 tree of eight training and four validation images of several sizes."""
    return make_voc(tmp_path / "data")


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    """A configuration of a segmentation run that takes a second, on a network of a million parameters."""
    return tiny_segmentation(tmp_path / "tiny.yaml", encoder="tu-test_resnet")


@pytest.fixture(scope="session")
def tiny_session(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, for runs that several tests look at."""
    return tiny_segmentation(tmp_path_factory.mktemp("tiny") / "tiny.yaml", encoder="tu-test_resnet")


@pytest.fixture
def tiny_resnet18(tmp_path: Path) -> Path:
    """The same on the default backbone, for tests that know its layers."""
    return tiny_segmentation(tmp_path / "tiny_resnet18.yaml")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A configuration of a classification run that takes a second."""
    return tiny_classification(tmp_path / "small.yaml")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)

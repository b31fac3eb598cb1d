"""Every row of the table of cases, checked in every way."""

import pytest

from fastdiff.kernels import jit
from tests.kernels import cases, check_kernel

every_case = pytest.mark.parametrize("case", cases.CASES, ids=str)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory):
    return check_kernel.run_simulator("tests.kernels.cases", tmp_path_factory.mktemp("simulated"))


@every_case
def test_inputs_are_as_declared(case):
    check_kernel.check_declaration(case)


@every_case
def test_agrees_with_twin(case):
    check_kernel.check_twin(case)


@every_case
def test_threads_do_not_change_a_bit(case):
    check_kernel.check_threads(case)


@every_case
def test_simulator_agrees(case, simulated):
    check_kernel.check_simulator(case, simulated)


@pytest.mark.parametrize("capability", [(8, 0), (9, 0)], ids=["sm_80", "sm_90"])
@pytest.mark.parametrize("kernel", dict.fromkeys(case.kernel for case in cases.CASES), ids=str)
def test_compiles_to_ptx(kernel, capability):
    check_kernel.check_ptx(kernel, capability)


@every_case
@pytest.mark.filterwarnings("ignore:Host array used in CUDA kernel")
def test_gpu_agrees(case):
    if not jit.cuda_available():
        pytest.skip("no CUDA device: the kernels were checked in the simulator and as PTX")
    check_kernel.check_gpu(case)

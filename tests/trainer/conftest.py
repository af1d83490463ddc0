import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Use one thread: tensors this small are fastest on one core, above all beside other tests."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)

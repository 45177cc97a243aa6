"""The mark of tests that need a GPU with sparse tensor cores."""

from __future__ import annotations

import pytest
import torch

WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="torch can use a GPU here")
NEEDS_GPU = pytest.mark.skipif(
    not torch.cuda.is_available() or not torch.backends.cusparselt.is_available(),
    reason="needs a GPU and a torch with cuSPARSELt",
)

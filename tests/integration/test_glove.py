"""A tagger that reads GloVe beside ELMo."""

from collections.abc import Callable
from typing import Any

import torch


def test_the_recipe_reads_both_and_learns(run_recipe: Callable[[str], dict[str, Any]]):
    found = run_recipe("GloVe beside ELMo")
    tagger, ids, beside, labels = (found[name] for name in ("tagger", "ids", "beside", "labels"))
    assert beside.tolist() == [[1, 4, 1, 2, 3], [1, 1, 0, 0, 0]]
    trained = [parameter for parameter in tagger.parameters() if parameter.requires_grad]
    fixed = [parameter.clone() for parameter in tagger.parameters() if not parameter.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        tagger(ids, beside, labels)["loss"].backward()
        optimizer.step()
    tagger.eval()
    with torch.no_grad():
        result = tagger(ids, beside, labels)
        assert result["loss"] < 0.1 < found["loss"]
        assert result["logits"].argmax(-1)[0].tolist() == labels[0].tolist()
        # Each of both is read, and padding changes nothing.
        for changed in ((ids.flip(0), beside), (ids, beside.flip(0))):
            assert not torch.allclose(tagger(*changed)["logits"], result["logits"], atol=1e-3)
        alone = tagger(ids[1:, :2], beside[1:, :2])["logits"]
        torch.testing.assert_close(alone[0], result["logits"][1, :2], atol=1e-5, rtol=1e-4)
    still = [parameter for parameter in tagger.parameters() if not parameter.requires_grad]
    assert all(map(torch.equal, still, fixed))

"""What is no setting of grouping is refused before anything is measured."""

import pytest
from pydantic import ValidationError

from grouping.config import GroupingConfig


@pytest.mark.parametrize("given", [True, False, 0, -1, 2.5, "2"])
def test_a_number_of_groups_is_a_whole_number_from_one_or_auto(given: object) -> None:
    with pytest.raises(ValidationError):
        GroupingConfig.model_validate({"num_groups": given})
    assert GroupingConfig(num_groups=2).num_groups == 2
    assert GroupingConfig().num_groups == "auto"


def test_a_seed_is_one_that_every_generator_takes() -> None:
    for seed in (-1, 2**32):
        with pytest.raises(ValidationError):
            GroupingConfig(seed=seed)
    assert GroupingConfig(seed=2**32 - 1).seed == 2**32 - 1

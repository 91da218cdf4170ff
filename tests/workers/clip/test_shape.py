"""A backbone's sizes are found without its weights, and without a trace."""

import logging

import pytest

from workers.clip.shape import backbone_shape


def test_looking_up_sizes_leaves_the_logging_of_the_process_alone(caplog: pytest.LogCaptureFixture) -> None:
    shape = backbone_shape("ViT-B-32")
    assert (shape.image_width, shape.text_width, shape.embed_dim) == (768, 512, 512)
    assert not caplog.records, "open_clip's warning about random weights is kept to itself"
    logging.getLogger().warning("this is told as before")
    assert [record.getMessage() for record in caplog.records] == ["this is told as before"]

import numpy as np
import pytest

from tests.tfx_pipeline.synthetic_examples import example_columns, write_examples
from tfx_pipeline.example_dataset import example_batches, example_files, training_batches

ROWS = 50


@pytest.fixture(scope="module")
def columns(small_schema) -> dict[str, np.ndarray]:
    columns = example_columns(small_schema, 1, ROWS, np.random.default_rng(0))
    columns["live_id"] = np.arange(ROWS)
    columns["label_mask"][::2, 1] = 0
    columns["label_weight"][:, 0] = 2
    return columns


@pytest.fixture(scope="module")
def files(columns, tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("examples")
    write_examples(folder / "b.tfrecord", columns, slice(30, ROWS))
    write_examples(folder / "a.tfrecord", columns, slice(0, 30))
    (folder / ".a.tfrecord.123").write_bytes(b"being written")
    return example_files(folder)


def test_examples_come_back_as_they_were_written(files, columns, small_schema):
    batches = list(example_batches(files, small_schema, 20))
    assert [len(batch["user_id"]) for batch in batches] == [20, 20, 10]
    for name, expected in columns.items():
        found = np.concatenate([batch[name].numpy() for batch in batches])
        assert found.dtype == expected.dtype
        np.testing.assert_array_equal(found, expected, err_msg=name)


def test_training_sees_each_example_once_an_epoch_with_its_labels_and_weights(files, columns, small_schema):
    batches = list(training_batches(files, small_schema, 16, 1000, seed=0).as_numpy_iterator())
    inputs, labels, weights = (
        {name: np.concatenate([batch[part][name] for batch in batches]) for name in batches[0][part]}
        for part in range(3)
    )
    assert set(inputs) == {feature.name for feature in small_schema.inputs}
    # `context` is drawn anew for each row, so it tells where a row came from.
    order = [
        int(np.flatnonzero((columns["statistic_sequence"] == row).all(axis=(1, 2)))[0])
        for row in inputs["statistic_sequence"]
    ]
    assert order != sorted(order)
    assert sorted(order) == list(range(ROWS))
    for k, task in enumerate(small_schema.task_names):
        np.testing.assert_array_equal(labels[task], columns["label"][order, k])
        np.testing.assert_array_equal(weights[task], (columns["label_mask"] * columns["label_weight"])[order, k])


def test_the_order_differs_between_epochs_and_not_between_runs(files, small_schema):
    def epochs(seed: int) -> list[list[float]]:
        batches = training_batches(files, small_schema, 16, 1000, seed)
        return [
            [row.tobytes() for batch in batches for row in batch[0]["statistic_sequence"].numpy()] for _ in range(2)
        ]

    first, again, other = epochs(0), epochs(0), epochs(1)
    assert first == again
    assert first[0] != first[1]
    assert first[0] != other[0]


def test_a_folder_without_examples_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"no \*.tfrecord in"):
        example_files(tmp_path)

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from serving.protos import serving_api_pb2 as api
from serving.tensors import from_tensor_proto, predict_request, to_tensor_proto

_ARRAYS = st.sampled_from(["<f4", ">f4", "<f8", "<i4", "<i8", ">i8", "?"]).flatmap(
    lambda dtype: st_numpy.arrays(dtype, st_numpy.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
)


@given(_ARRAYS)
def test_an_array_comes_back_as_it_was(array):
    proto = api.TensorProto.FromString(to_tensor_proto(array).SerializeToString())
    back = from_tensor_proto(proto)
    assert back.shape == array.shape
    np.testing.assert_array_equal(back, array)


@given(_ARRAYS)
def test_tensorflow_reads_the_same_array(array):
    import tensorflow as tf
    from tensorflow.core.framework import tensor_pb2

    theirs = tensor_pb2.TensorProto.FromString(to_tensor_proto(array).SerializeToString())
    np.testing.assert_array_equal(tf.make_ndarray(theirs), array)


def test_strings_go_as_bytes():
    array = np.array([b"a", b"\xff\x00"], object)
    assert from_tensor_proto(to_tensor_proto(array)).tolist() == [b"a", b"\xff\x00"]


def test_repeated_values_are_read_as_well():
    proto = api.TensorProto(dtype=api.DT_FLOAT, float_val=[1, 2, 3, 4, 5, 6])
    proto.tensor_shape.dim.extend([api.TensorShapeProto.Dim(size=2), api.TensorShapeProto.Dim(size=3)])
    assert from_tensor_proto(proto).tolist() == [[1, 2, 3], [4, 5, 6]]


def test_one_value_stands_for_all():
    proto = api.TensorProto(dtype=api.DT_INT64, int64_val=[7])
    proto.tensor_shape.dim.add(size=3)
    assert from_tensor_proto(proto).tolist() == [7, 7, 7]


def test_values_that_do_not_fill_the_shape_are_refused():
    proto = api.TensorProto(dtype=api.DT_INT64, int64_val=[7, 8])
    proto.tensor_shape.dim.add(size=3)
    with pytest.raises(ValueError, match=r"shape \(3,\) came with 2 values, expected 3"):
        from_tensor_proto(proto)


def test_a_type_that_cannot_be_sent_is_named_with_its_input():
    with pytest.raises(ValueError, match="input 'x': a tensor of type complex128 can't be sent"):
        predict_request("ranker", {"x": np.zeros(2, complex)})

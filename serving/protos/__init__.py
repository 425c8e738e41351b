"""Messages of TensorFlow Serving's API for clients that don't have TensorFlow."""

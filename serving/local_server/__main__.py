"""`python -m serving.local_server`: the same as `foresight serve`."""

from serving.cli import serve

if __name__ == "__main__":
    serve(prog_name="python -m serving.local_server")

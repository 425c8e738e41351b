"""What our layers are measured against, in other frameworks; written from the equations."""

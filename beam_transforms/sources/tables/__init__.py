"""Streamed, columnar reading of CSV and Parquet tables whose rows may be damaged."""

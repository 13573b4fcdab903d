"""The boundary in pure form: raw dataset bytes in, a clean file, its facts and its vault entry out."""

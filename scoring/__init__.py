"""Pure compute: bytes and arrays in, numbers out. Packages, intake, decode, prepare, runtime."""

"""The `mome` command, its reports and benchmarks: everything that prints. The library is mome_store."""

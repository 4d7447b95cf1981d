"""The on-flash format of a sliced model: geometry, codec, manifest, writer and reader. numpy only."""

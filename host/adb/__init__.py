"""Android's debug bridge: connections, shells, files and forwarded ports, without the `adb` program."""

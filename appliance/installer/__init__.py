"""The appliance on a box: installed, changed for another version and back, mended, removed. Run as root by install.sh."""

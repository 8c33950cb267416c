"""Commands about the environments: what there is, locks, images, archives, this machine."""

"""Random power cuts on a real ext4 under the real store."""

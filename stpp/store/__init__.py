"""What lies on disk: files written whole, ids, manifests, mask sets."""

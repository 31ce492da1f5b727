"""First geometries: of salts, of open stereo, of any element that something here knows."""

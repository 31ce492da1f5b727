"""What a steering tells: a page of its run, plain words at its end, time left, filter or steer."""

"""What a process tells those who run it: probes, metrics, and the beginning of its end. For every part alike."""

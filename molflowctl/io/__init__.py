"""Files: libraries of molecules in and out, JSON, and the record that lies beside a result."""

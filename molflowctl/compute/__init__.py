"""One ordered map over processes, joblib or Ray, and its progress."""

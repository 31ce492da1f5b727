"""Problems whose answers are known, and how near each method comes."""

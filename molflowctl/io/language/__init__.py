"""The language of rewards and filters: its signs and its grammar; what names mean is said above."""

"""Control of flows: free of chemistry, on any `Flow` and any states."""

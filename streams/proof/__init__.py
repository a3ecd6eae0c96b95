"""What operators ask for as proof: journal against rows, topics, table and neighbours; and derived rows made anew from the journal."""

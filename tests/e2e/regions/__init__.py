"""Two embedded clusters as two regions, and in front of them what stands where Cloud Load Balancing would.

    clients in a zone ── HAProxy ── toxiproxy: the way from zone to region ── pods of the region

`make test-regions` makes all of it and runs the tests; docs/regions.md has the drawing and the results. It is
no part of the product: it reads the objects that the chart has for a Gateway controller, as GKE's would.
"""

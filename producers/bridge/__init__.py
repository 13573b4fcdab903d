"""The bridge: what lies in buckets of others becomes intakes, as what comes through the DICOM door does.

1. `dialects`: what a store's event says, in one form (`Sighting`).
2. `sources`: where events come from, and how one is said to be done with.
3. `contents`: what an object is, from its first kilobytes: an instance, an archive of them (`archive`), or nothing.
4. `take`: sightings become intakes, each once, and are published; sole writer of what is known of buckets.
5. `bridge`: the loop from 2 to 4.

The lister (`producers.lister`) finds what events have lost and hands it to 4 as well.
"""

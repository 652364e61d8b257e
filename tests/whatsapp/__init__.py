"""A loopback WhatsApp for the real library, and the tests that need one.

What is real: neonize with its Go library (whatsmeow), its Noise handshake, binary XML, Signal sessions, media
encryption and SQLite store. What stands in: WhatsApp's server and everybody's phones, in about a thousand lines:

    library.py     makes the library trust and dial the stand-in (in memory, or by an overlay for subprocesses)
    keys.py        Curve25519, XEdDSA, HKDF
    wire.py        binary XML and Noise            connection.py  websocket, TLS, proxy
    peer.py        a phone's Signal device         settings.py    what the phone tells a new device
    people.py      people, groups, sent messages
    answers.py     replies to requests             media.py       the media host
    server.py      FakeWhatsApp: all of it, with a method for each thing that people, phones or servers do
    product.py     `nanoclaw run` as a subprocess  conftest.py    fixtures: `whatsapp`, and `memory` for sessions

It is our reading of the protocol and cannot prove that the real server agrees: at each new release of the library,
link a spare phone once. Not played: history sync, people with several devices, sender keys of other people (a group
message comes as if it were direct, which is legal).
"""

# Packets of any IP protocol for tests. Usage: raw-peer.py listen PROTOCOL | ask HOST PROTOCOL [PAYLOAD_HEX]; the listener sends each packet
# back, with the first two pairs of bytes swapped (ports, of protocols that have them); the asker ends with 0 when something comes back
# within half a second.
import socket
import sys

role = sys.argv[1]
protocol = int(sys.argv[2 if role == 'listen' else 3])
peer = socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)


def payload(packet):
    return packet[(packet[0] & 15) * 4:]


if role == 'listen':
    print('listening', flush=True)
    while True:
        packet, (address, _) = peer.recvfrom(65535)
        data = payload(packet)
        peer.sendto(data[2:4] + data[0:2] + data[4:], (address, 0))
else:
    data = bytes.fromhex(sys.argv[4]) if len(sys.argv) > 4 else bytes(24)
    peer.settimeout(0.5)
    peer.sendto(data, (sys.argv[2], 0))
    try:
        while True:
            _, (address, _) = peer.recvfrom(65535)
            if address == sys.argv[2]:
                sys.exit(0)
    except TimeoutError:
        sys.exit(1)

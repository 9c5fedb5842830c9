"""A gadget carried to a host: on our own UDC or any of the kernel's, to our own host or Linux's.

One context starts the UDC, the server and the attachment that a `Carrier` needs, and undoes them
in the reverse order. It adds nothing to what they do.
"""

from usbip_vudc.carrier.carried import Carried, carried
from usbip_vudc.carrier.carrier import HOSTS, Carrier
from usbip_vudc.carrier.device_end import DeviceEnd, device_end
from usbip_vudc.carrier.errors import PATIENCE, CarrierError
from usbip_vudc.carrier.host_end import HostEnd, OwnBusHost, host_end, libusb_device
from usbip_vudc.carrier.own_bus import OwnBus
from usbip_vudc.carrier.udcs import OURS

__all__ = (
    "HOSTS",
    "OURS",
    "PATIENCE",
    "Carried",
    "Carrier",
    "CarrierError",
    "DeviceEnd",
    "HostEnd",
    "OwnBus",
    "OwnBusHost",
    "carried",
    "device_end",
    "host_end",
    "libusb_device",
)

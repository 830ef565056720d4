"""Random exports: programs that share no code with flowagent read the same sums out of them."""

import json
import random
import socket
import struct
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
from live.agent import Sums
from live.generate import command, parse
from live.polling import free_port, until
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.layers import netflow
from scapy.utils import PcapReader, wrpcap

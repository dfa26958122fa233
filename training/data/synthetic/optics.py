"""Image formation by transfer functions in the Fourier domain.

Lengths are in pixels, frequencies in cycles per pixel. Fields are periodic; the caller crops a margin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft

from runtime.types import F32

C64 = NDArray[np.complex64]


@lru_cache(maxsize=8)
def _frequencies(size_hw: tuple[int, int], half: bool) -> F32:
    """Return the squared frequency of every element of a spectrum; ``half`` is for real fields."""
    x = fft.rfftfreq(size_hw[1]) if half else fft.fftfreq(size_hw[1])
    squared = fft.fftfreq(size_hw[0])[:, None] ** 2 + x[None] ** 2
    out: F32 = squared.astype(np.float32)
    out.flags.writeable = False
    return out


def _gauss(squared: F32, sigma_px: float) -> F32:
    out: F32 = np.exp(np.float32(-2 * np.pi**2 * sigma_px**2) * squared)
    return out


def blurred(image: F32, sigma_px: float, haze: float = 0.0, haze_px: float = 0.0) -> F32:
    """Image an emitter with a Gaussian core; a wider Gaussian spreads a share ``haze`` of the light."""
    squared = _frequencies((image.shape[0], image.shape[1]), True)
    transfer = np.float32(1 - haze) * _gauss(squared, sigma_px)
    if haze:
        transfer = transfer + np.float32(haze) * _gauss(squared, haze_px)
    out: F32 = fft.irfft2(fft.rfft2(image) * transfer, s=image.shape)
    return out


@dataclass(frozen=True, kw_only=True, slots=True)
class PhaseOptics:
    """Parameters of a phase-contrast microscope."""

    positive: bool
    """True: thick parts are dark on gray, with a bright halo. False: the reverse."""
    ring_px: float
    """Width of the halo. Light from wider details also passes the phase ring, so they shade off."""
    transmission: float
    """Share of the amplitude that the ring transmits."""
    sigma_px: float
    """Blur of the aperture."""


def phase_contrast(phase: F32, absorption: F32 | None, optics: PhaseOptics) -> F32:
    """Compute the intensity behind a Zernike phase plate; 1 where the object is flat.

    Args:
        phase: (H, W) phase shift by the object, radians.
        absorption: (H, W) optical depth of the amplitude, or None.
        optics: the microscope.

    Source: Zernike 1942, Physica 9:686. A ring of finite width acts as a low-pass filter, which explains halo and
    shade-off (Yin et al. 2012, Medical Image Analysis 16:1047).
    """
    spectrum, squared = _spectrum(phase, absorption)
    shift = optics.transmission * np.exp(1j * (-np.pi / 2 if optics.positive else np.pi / 2))
    transfer: C64 = 1 + np.complex64(shift - 1) * _gauss(squared, optics.ring_px)
    passed: C64 = spectrum * transfer * _gauss(squared, optics.sigma_px)
    return _intensity(passed) / np.float32(optics.transmission**2)


def bright_field(phase: F32, absorption: F32 | None, defocus_px2: float, coherence: float, sigma_px: float) -> F32:
    """Compute the intensity of a transmitted wave out of focus; 1 where the object is flat.

    Args:
        phase: (H, W) phase shift, radians.
        absorption: (H, W) optical depth of the amplitude, or None.
        defocus_px2: wavelength times defocus; its sign inverts the contrast.
        coherence: spread of the illumination, cycles per pixel; a larger spread fades fringes.
        sigma_px: blur of the aperture.

    Source: Fresnel transfer function (Goodman, Introduction to Fourier Optics, section 4.2); for small defocus, it
    becomes the transport-of-intensity equation (Teague 1983, JOSA 73:1434).
    """
    spectrum, squared = _spectrum(phase, absorption)
    envelope = _gauss(squared, float(np.hypot(sigma_px, abs(defocus_px2) * coherence)))
    lag = np.float32(-np.pi * defocus_px2) * squared
    transfer = np.empty(spectrum.shape, np.complex64)
    transfer.real, transfer.imag = envelope * np.cos(lag), envelope * np.sin(lag)
    return _intensity(spectrum * transfer)


def interference_contrast(phase: F32, shear_yx: tuple[float, float], bias: float, sigma_px: float) -> F32:
    """Compute the intensity in differential interference contrast; ``sin^2(bias / 2)`` where the object is flat.

    Args:
        phase: (H, W) phase shift, radians.
        shear_yx: distance of the two beams, pixels.
        bias: phase between the beams, radians.
        sigma_px: blur of the aperture.
    """
    fy = fft.fftfreq(phase.shape[0])[:, None].astype(np.float32)
    fx = fft.rfftfreq(phase.shape[1])[None].astype(np.float32)
    squared = _frequencies((phase.shape[0], phase.shape[1]), True)
    difference = 2j * np.sin(np.float32(np.pi) * (fy * np.float32(shear_yx[0]) + fx * np.float32(shear_yx[1])))
    transfer = difference.astype(np.complex64) * _gauss(squared, sigma_px)
    gradient = fft.irfft2(fft.rfft2(phase) * transfer, s=phase.shape)
    out: F32 = np.sin((gradient + np.float32(bias)) / 2) ** 2
    return out


def _spectrum(phase: F32, absorption: F32 | None) -> tuple[C64, F32]:
    amplitude = np.float32(1) if absorption is None else np.exp(-absorption)
    wave = np.empty(phase.shape, np.complex64)
    wave.real, wave.imag = amplitude * np.cos(phase), amplitude * np.sin(phase)
    spectrum: C64 = fft.fft2(wave, overwrite_x=True)
    return spectrum, _frequencies((phase.shape[0], phase.shape[1]), False)


def _intensity(spectrum: C64) -> F32:
    wave = fft.ifft2(spectrum, overwrite_x=True)
    out: F32 = wave.real**2 + wave.imag**2
    return out

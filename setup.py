"The distribution, described by settings.ini alone."
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

settings = ConfigParser(delimiters=["="])
settings.read(Path(__file__).parent / "settings.ini", encoding="utf-8")
about = settings["DEFAULT"]
extras = {
    key.removesuffix("_requirements"): value.split()
    for key, value in about.items() if key.endswith("_requirements")
}

setup(
    name=about["lib_name"],
    version=about["version"],
    description=about["description"],
    keywords=about["keywords"].split(),
    author=about["author"],
    license=about["license"],
    python_requires=f">={about['min_python']}",
    packages=find_packages(include=["recon_ad", "recon_ad.*"]),
    package_data={"recon_ad": ["py.typed"]},
    install_requires=about["requirements"].split(),
    extras_require=extras,
    entry_points={"console_scripts": about["console_scripts"].split()},
    zip_safe=False,
)

"""Write infra/deploy/kubernetes anew."""

from commands.deploy.manifests import FOLDER, manifests

wanted = manifests()
FOLDER.mkdir(parents=True, exist_ok=True)
for path in FOLDER.glob("*.yaml"):
    if path.name not in wanted:
        path.unlink()
for name, text in wanted.items():
    (FOLDER / name).write_text(text)

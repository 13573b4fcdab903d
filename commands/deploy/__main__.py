"""Write infra/deploy/kubernetes anew."""

from commands.deploy.manifests import FOLDER, manifests

wanted = manifests()
FOLDER.mkdir(parents=True, exist_ok=True)
for path in FOLDER.rglob("*.yaml"):
    if str(path.relative_to(FOLDER)) not in wanted:
        path.unlink()
for name, text in wanted.items():
    (FOLDER / name).parent.mkdir(exist_ok=True)
    (FOLDER / name).write_text(text)

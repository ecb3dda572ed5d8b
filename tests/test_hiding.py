"""Secrets are left out of texts, and nothing else is."""

import subprocess
import sys

import pytest

from beit_mm import hiding

SECRETS = r'''
HF_TOKEN=S3CR3T
export HF_TOKEN=S3CR3T
HFTOKEN='S3CR3T'
token="S3CR3T"
token='a"S3CR3T"b'
token='it\'s S3CR3T'
token=b'S3CR3T x'
token="""S3CR3T x"""
api_key: S3CR3T
"api_key": "S3CR3T"
{"a": {"token": "S3CR3T"}, "lr": 0.1}
{\"token\": \"a S3CR3T b\", \"lr\": 0.5}
{'headers': {'Authorization': 'Bearer S3CR3T'}}
{'headers': {'Authorization': 'Basic S3CR3T=='}}
Authorization: Basic S3CR3T
Authorization: Token S3CR3T
Authorization: AWS4-HMAC-SHA256 Credential=S3CR3T/2020/us/s3, SignedHeaders=host, Signature=S3CR3T
Cookie: a=S3CR3T; b=S3CR3T; c=S3CR3T
Set-Cookie: session=S3CR3T; Path=/
-H "X-Api-Key: S3CR3T"
-H 'X-Auth-Token: S3CR3T' -d 'x'
https://user:S3CR3T@host/x
https://S3CR3T@host/x
https://user:p/S3CR3T@host/x
https://user:it'sS3CR3T@host/x
s3://AKIA:abc/S3CR3T+x@bucket/y
https://h/x?sig=S3CR3T
https://h/x?a=b&X-Amz-Signature=S3CR3T#part
h/x?X-Amz-Credential=S3CR3T&X-Amz-Signature=S3CR3T
https://acc.blob.core.windows.net/c/b?sv=2020&sig=S3CR3T%3D
DefaultEndpointsProtocol=https;AccountName=x;AccountKey=S3CR3T==;EndpointSuffix=core
SharedAccessSignature=sv=2020&sig=S3CR3T
postgres://u:S3CR3T@h:5432/db
http_proxy=u:S3CR3T@proxy:8080
curl --token S3CR3T x
train.py --hub.token S3CR3T
train.py --api-key S3CR3T
--password=S3CR3T
tokens=[['S3CR3T'], ['S3CR3T']]
tokens=['S3CR3T', 'S3CR3T']
tokens=S3CR3T,S3CR3T
credentials=dict(user='S3CR3T', x=dict(y='S3CR3T'))
credentials={'a': 'S3CR3T', 'b': ['S3CR3T']}
secrets=("S3CR3T", ("S3CR3T",))
password=ab(S3CR3T)ef
password=p[S3CR3T]x
password=a'S3CR3T
password=a,S3CR3T
PGPASSWORD=S3CR3T
mypassword=S3CR3T
clientsecret=S3CR3T
client_secret: "S3CR3T"
token2=S3CR3T
token_1 = 'S3CR3T'
password1: S3CR3T
os.environ['HF_TOKEN'] = 'S3CR3T'
os.environ["WANDB_API_KEY"]="S3CR3T"
setdefault('PASSWORD', 'S3CR3T')
[('X-Api-Key', 'S3CR3T')]
def f(token: str = 'S3CR3T'):
def f(token: str | None = 'S3CR3T'):
if token == 'S3CR3T':
token%3DS3CR3T
access_key_id='S3CR3T'
AWS_SECRET_ACCESS_KEY = S3CR3T
aws_session_token=S3CR3T
private_key='-----BEGIN PRIVATE KEY-----\nS3CR3T\n-----END PRIVATE KEY-----'
-----BEGIN RSA PRIVATE KEY-----\NS3CR3T\Nabc\N-----END RSA PRIVATE KEY-----
passphrase: S3CR3T
db_pass=S3CR3T
'pass': 'S3CR3T'
jwt='S3CR3T'
cookie='S3CR3T'
webhook='https://hooks/services/S3CR3T'
'token': u'S3CR3T'
accessToken="S3CR3T"
refresh_token=S3CR3T
x.y.0.token=S3CR3T
a.headers.Authorization="Bearer S3CR3T"
password = 'S3CR3T' 'moreS3CR3T'
password='S3CR3T
password=" a S3CR3T 
token=('S3CR3T'
token=('a', 'S3CR3T'
token: >-\N  S3CR3T
password='a\NS3CR3T'
login(key='0123456789abcdefS3CR3T0123456789abcdef')
hf_abcdefghijklmnopS3CR3T
ghp_abcdefghijklmnopS3CR3T
'git+https://x-access-token:S3CR3T@github.com/a/b'
https://h/a;token=S3CR3T/x
https://h/x#access_token=S3CR3T&a=b
https://h/x?u=https://me:S3CR3T@h2/
[https://h/x?sig=S3CR3T]
(https://h/x?sig=S3CR3T)
<https://h/x?sig=S3CR3T>
ftp://me:S3CR3T@h/x
redis://:S3CR3T@h:6379/0
token=S3CR3T;lr=1
{token:S3CR3T,lr:1}
init_kwargs=dict(config=dict(api_key='S3CR3T', lr=1))
"secret_access_key" : 'S3CR3T'
token := 'S3CR3T'
pass=S3CR3T
PASS: S3CR3T
wandb_key=0123456789abcdefS3CR3T0123
"Proxy-Authorization": "Basic S3CR3T"
bearer_token=S3CR3T
Bearer  S3CR3T
bearer: S3CR3T
sas_token='sv=1&sig=S3CR3T'
account_key=S3CR3T
connection_string='AccountKey=S3CR3T'
'''
ORDINARY = r"""
token_mixer='mlp'
num_tokens=196
num_tokens: 196
tokens=(14, 14)
token=3
mask_token='zero'
cls_token='avg'
out_type='cls_token', lr=0.5
use_mask_token=True
key='img'
key: backbone.blocks.0.attn.relative_position_bias_table
dict(type='X', key='gt_label')
keys=['img', 'gt_label']
by_key = 'acc'
img_key='jpg'
custom_keys=dict(norm=dict(decay_mult=0.0))
unexpected key: backbone.blocks.0
tokens = self.tokenizer.encode(images)
tokens = model.encode(images)
tokens: Tensor
perplexity_token: 12.3
masked_token_accuracy: 0.5
tokenizer=dict(type='beit_mm.DiscreteVAE', vocab_size=8192)
tokenizer: configs/x
tokens: [1, 2, 3]
lr: 1.0e-03  eta: 1:02:03  time: 0.5
https://github.com/a/b#readme
see https://host:8080/path/@user
file.py:12: error
https://h/x/y.pth
author='me'
authors: x
compass: 3
save_best='auto'
secret=None
keypoints: 3
patch_tokens='x'
class token: shared
visual tokens: 8192
image size: 224
keys: ['img', 'token']
--resume --cfg-options a.b=3
model.backbone.use_mask_token=False
2026-01-31 12:00:00 - INFO - Epoch(val) [1][3/3]  accuracy/top1: 50.0
bypass: x
"""


def _lines(text):
    return [line.replace(r'\N', '\n') for line in text.strip().split('\n')]


@pytest.mark.parametrize('text', _lines(SECRETS))
def test_secrets_are_hidden_in_texts_and_commands(text):
    for hidden in (hiding.hide_secrets(text), *hiding.hide_in_command([text]), hiding.hide_secrets(f'x\n({text}, b')):
        assert 'S3CR3T' not in hidden and '***' in hidden


@pytest.mark.parametrize('text', _lines(ORDINARY))
def test_other_texts_stay(text):
    assert hiding.hide_secrets(text) == text and hiding.hide_in_command([text, '--lr', '1']) == [text, '--lr', '1']


def test_the_word_after_an_option_is_hidden():
    words = ['--hub.token', 'SECRET', '-password', 'SECRET', '--token-mixer', 'mlp', '--api_key', 'SECRET']
    assert hiding.hide_in_command(words) == [word.replace('SECRET', '***') for word in words]


LONG = r"""
token token= token=" token=( token=[ token={' token=a, token='a' token="\ token=\" token=\a token_1 token-- --token-
bearer_ http://a http:// ://a:b@ a:b@ a?b a; tokenToken eyJ- PRIVATEKEY----- key=a1 'token', cookie=a;b; apikey
""".split()


@pytest.mark.parametrize('number', [500, pytest.param(10_000, marks=pytest.mark.long)])
def test_long_texts_take_time_in_proportion_to_their_length(number):
    """Each part many times over, in a process that can be ended."""
    script = (
        'import importlib.util, sys; spec = importlib.util.spec_from_file_location("hiding", sys.argv[1]); '
        'hiding = importlib.util.module_from_spec(spec); spec.loader.exec_module(hiding)\n'
        f'for part in sys.argv[2:]:\n'
        f'    for text in (part * {number}, "token=" + part[1:] * {number}, "http://" + part * {number} + "@"):\n'
        '        hiding.hide_secrets(text), hiding.hide_in_command([text, text])'
    )
    subprocess.run([sys.executable, '-c', script, hiding.__file__, *LONG], check=True, timeout=0.5 * number)
